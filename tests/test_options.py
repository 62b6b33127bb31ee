"""Options are defined once: flags, presets, checks of config.json and the table in the docs derive from them."""

from pathlib import Path

import pytest

import train
from training.options import (
    OPTIONS,
    PRESETS,
    fits,
    flag_of,
    meaning,
    names_of,
    options_table,
    preset_values,
    settings_table,
    with_defaults,
)
from utils import UserError

ROOT = Path(train.__file__).parent


def as_json(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("preset", PRESETS)
def test_every_value_of_a_preset_is_one_that_its_config_may_have(preset):
    for name, value in preset_values(preset).items():
        assert fits(name, as_json(value)), name
    assert set(preset_values(preset)) == set(OPTIONS)


def test_presets_name_options_values_for_presets_that_exist():
    assert {preset for each in OPTIONS.values() for preset in each.metadata["presets"]} <= set(PRESETS)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_value_that_is_none_is_refused_and_the_reason_says_what_is_meant(name):
    assert not fits(name, {}) and not fits(name, [1, 2, 3]) and meaning(name)
    if OPTIONS[name].metadata["within"]:
        least, most = OPTIONS[name].metadata["within"]
        pair = OPTIONS[name].type is tuple
        for value, right in ((least, True), (most, True), (most + 1, False), (True, False)):
            assert fits(name, [value, value] if pair else value) == right
    assert fits(name, None) == (OPTIONS[name].metadata["none"] is not None)


def test_every_option_that_is_not_hidden_has_a_flag_and_only_given_ones_are_options():
    options, about = train.parse_flags([])
    assert options == {} and about == {
        "run": None,
        "preset": None,
        "stage": "all",
        "vqvae": None,
        "resume": None,
        "dry_run": False,
    }
    given = [
        "--num-codes",
        "64",
        "--no-crop",
        "--nondeterministic",
        "--flip",
        "--image-size",
        "60",
        "64",
        "--loss",
        "squared",
        "--augment",
        "0.5",
    ]
    assert train.parse_flags(given)[0] == {
        "num_codes": 64,
        "crop": False,
        "deterministic": False,
        "flip": True,
        "image_size": [60, 64],
        "loss": "squared",
        "augment": 0.5,
    }
    for name in names_of(hidden=True):
        with pytest.raises(UserError, match="unrecognized"):
            train.parse_flags([flag_of(name), "1"])


def test_help_tells_what_an_option_is_in_each_preset(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "codes in the codebook (default 256; smoke 32, demo 128, paper 512)" in said
    for name in names_of(hidden=False):
        assert flag_of(name) in said


def test_a_config_of_an_older_run_gets_what_it_lacks():
    assert with_defaults({"num_codes": 7}) == preset_values("default") | {
        "prior_patch": 1,
        "prior_augment": 0.8,
        "prior_levels": 1,
        "prior_slices_below": 0,
        "prior_told": 0.7,
        "prior_convolution": "dilated",
        "refiner_steps": 0,
        "num_codes": 7,
    }


def test_the_table_in_the_docs_is_that_of_the_options():
    """If not: python -c 'from training.options import options_table; print(*options_table(), sep="\\n")'."""
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    table = page.partition("<!-- options -->")[2].partition("<!-- /options -->")[0]
    assert table.strip().splitlines() == options_table()


def test_the_model_card_lists_the_settings_of_the_run(finished_run):
    card = (finished_run / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| vqvae steps | 6 | optimizer steps |" in card
    assert settings_table(preset_values("smoke"))[0] in card
