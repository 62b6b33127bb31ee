"""evaluate.py on a tiny run, on folders of any generator, and on several runs."""

import errno
import importlib.util
import json
import os
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import make_slices
from PIL import Image
from test_sets import brains

import evaluate
import metrics.people
import report.page
from metrics.measured import replace_images
from metrics.participants import read_metadata
from metrics.parts import Cache
from sampling.run import Run
from slices.processes import held
from utils import UserError


@pytest.fixture(scope="module")
def evaluated(finished_run, tmp_path_factory):
    """A copy of the tiny run, evaluated."""
    folder = tmp_path_factory.mktemp("evaluated") / "tiny"
    shutil.copytree(finished_run, folder)
    assert "not yet measured" in (folder / "MODEL_CARD.md").read_text()
    evaluate.main(["--run", str(folder), "--num-samples", "20"])
    return folder


def check_metrics(values):
    """Every metric is a finite number, an interval, words, or null with its reason beside it."""
    for name, value in values.items():
        if value is None:
            assert values[f"{name}_why"], name
        elif isinstance(value, dict) and "value" in value:
            assert set(value) == {"value", "low", "high"} and all(map(np.isfinite, value.values())), name
        elif isinstance(value, dict):
            check_metrics(value)
        elif not isinstance(value, str | list):
            assert np.isfinite(value), name


def test_evaluation_of_a_tiny_run(evaluated):
    measured = json.loads((evaluated / "metrics.json").read_text())
    check_metrics({name: value for name, value in measured.items() if name != "commit"})
    assert measured["split"] == "validation" and "n = 2 people: exploratory" in measured["notes"]
    for section, keys in {
        "reconstruction": "ssim psnr mae ms_ssim ssim_brain psnr_brain mae_brain spectrum_gap frc_resolution "
        "tissue_dice ssim_brain_sd",
        "rate": "bits_per_image bits_per_image_unigram bits_per_image_prior",
        "codebook": "perplexity perplexity_brain used_fraction largest_share",
        "prior": "bits_per_code_train bits_per_code_validation bits_per_code_test uniform_bits_per_code "
        "unigram_bits_per_code positional_bits_per_code positional_bits_per_code_brain bits_per_pixel",
        "samples": "slices_per_set people fitted_people null_people null_draws label_effects lopsided lopsided_people",
        "memorisation": "audit_false_alarm copies_fraction copies_local people_copied nn_ratio membership",
        "usefulness": "auc_real auc_samples auc_both",
    }.items():
        assert set(keys.split()) <= set(measured[section]), section
    real, reconstructions = (
        {name for name in measured["samples"][against] if not name.endswith("_why")}
        for against in ("against_real", "against_reconstructions")
    )
    assert real == reconstructions
    keys = "frechet kid two_sample_auc two_sample_auc_shape two_sample_auc_texture patches precision recall density "
    for key in (keys + "coverage diversity spectrum_gap detail_auc noise_ratio").split():
        wanted = {key, *(f"{key}_{name}" for name in ("null", "verdict", "p", "positional", "gaussian"))}
        assert wanted <= set(measured["samples"]["against_real"])
        assert measured["samples"]["against_real"][f"{key}_verdict"] == "cannot tell"  # of four people
    assert any("too few people to cross-fit" in note for note in measured["notes"])
    assert not (evaluated / "test_looks.csv").exists()
    assert "not yet measured" not in (evaluated / "MODEL_CARD.md").read_text()
    assert pd.read_csv(evaluated / "people.csv")["subject"].nunique() == 2


def test_a_second_evaluation_uses_the_cache_and_agrees(evaluated, tmp_path):
    first = json.loads((evaluated / "metrics.json").read_text())
    cached = {path.name: path.stat().st_mtime_ns for path in (evaluated / "cache").iterdir()}
    evaluate.main(["--run", str(evaluated), "--num-samples", "20"])
    second = json.loads((evaluated / "metrics.json").read_text())
    assert first == second
    assert cached == {path.name: path.stat().st_mtime_ns for path in (evaluated / "cache").iterdir()}


def test_cached_codes_take_two_bytes_and_come_back_as_they_were(evaluated):
    cache = Cache(Run(evaluated), seed=0)
    for highest, kept in ((2**15 - 1, np.int16), (2**15, np.int32)):
        codes = np.array([[0, highest]], np.int32)
        for _ in range(2):  # computed, then read
            found = cache.kept("codes-of-a-test", str(highest), lambda codes=codes: codes)
            assert found.dtype == np.int32 and (found == codes).all()
        (path,) = (evaluated / "cache").glob("codes-of-a-test-*")
        assert np.load(path)["values"].dtype == kept
        path.unlink()


@pytest.fixture(scope="module")
def looked(evaluated, tmp_path_factory):
    """A copy of the tiny run, evaluated on its test people with what is known of them."""
    folder = tmp_path_factory.mktemp("looked") / "tiny"
    shutil.copytree(evaluated, folder)
    subjects = sorted(set(pd.read_csv(folder / "slices.csv", dtype=str)["subject"]))
    table = pd.DataFrame({"Image Data ID": subjects, "Subject": subjects, "Sex": ["F", "M"] * 4, "Age": range(60, 68)})
    table.to_csv(folder / "adni.csv", index=False)
    evaluate.main(["--run", str(folder), "--split", "test", "--quick", "--metadata", str(folder / "adni.csv")])
    return folder


def test_test_people_are_counted_as_looks(looked):
    looks = pd.read_csv(looked / "test_looks.csv")
    assert list(looks) == ["date", "commit", "command"] and len(looks) == 1
    assert "--split test" in looks["command"][0]
    evaluate.note_look(looked, "once more")
    assert list(pd.read_csv(looked / "test_looks.csv")["command"])[1] == "once more"
    measured = json.loads((looked / "metrics.json").read_text())
    assert isinstance(measured["prior"]["bits_per_code_test"], dict)


def test_a_run_whose_folder_cannot_be_written_is_measured_elsewhere(evaluated, tmp_path, monkeypatch, capsys):
    run, out = tmp_path / "tiny", tmp_path / "elsewhere" / "deep"
    shutil.copytree(evaluated, run, ignore=lambda folder, names: [*{*names} & evaluate.EVALUATION])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot be written: say with --out where the evaluation goes"):
        evaluate.main(["--run", str(run)])

    def read_only(path, command, append=evaluate._append_look):
        if path.parent == run:
            raise OSError(errno.EROFS, "Read-only file system")
        append(path, command)

    monkeypatch.setattr(evaluate, "_append_look", read_only)
    shutil.copytree(evaluated / "cache", out / "cache")
    evaluate.main(["--run", str(run), "--num-samples", "20", "--out", str(out)])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert {path.name for path in out.iterdir()} == evaluate.EVALUATION - {"report_shareable.html", "test_looks.csv"}
    here, there = (json.loads((folder / "metrics.json").read_text()) for folder in (evaluated, out))
    assert {**here, "command": ""} == {**there, "command": ""}
    assert not (out / "cache" / "lock").exists()
    evaluate.main(["--run", str(run), "--num-samples", "20", "--quick", "--out", str(out), "--split", "test"])  # again
    assert len(pd.read_csv(out / "test_looks.csv")) == 1 and "count it with the others" in capsys.readouterr().err
    assert "evaluations on test people so far: 1" in (out / "MODEL_CARD.md").read_text()


def test_two_evaluations_do_not_write_into_one_folder(evaluated, tmp_path):
    (tmp_path / "out" / "cache").mkdir(parents=True)
    with (
        held(tmp_path / "out" / "cache", "being used for an evaluation"),
        pytest.raises(UserError, match="is being used for an evaluation by process"),
    ):
        evaluate.main(["--run", str(evaluated), "--out", str(tmp_path / "out")])


def test_a_split_too_large_for_sets_is_thinned_by_person_and_says_so(evaluated, tmp_path, monkeypatch):
    folder = tmp_path / "tiny"
    shutil.copytree(evaluated, folder)
    slices = pd.read_csv(folder / "slices.csv", dtype=str)
    training = slices.loc[slices["split"] == "train", "subject"].unique()
    slices.loc[slices["subject"].isin(training[:2]), "split"] = "test"  # four people now
    slices.to_csv(folder / "slices.csv", index=False)
    monkeypatch.setattr(metrics.people, "SET_SLICES", 6)
    monkeypatch.setattr(report.page, "draw_figures", lambda *_: [])
    evaluate.main(["--run", str(folder), "--split", "test", "--quick", "--num-samples", "20"])
    notes = json.loads((folder / "metrics.json").read_text())["notes"]
    assert any(
        note.startswith("sets are compared on 8 slices of 2 evenly drawn") and "16, of the 16" in note for note in notes
    )
    people = pd.read_csv(folder / "people.csv")
    assert len(people) == 4 and people["bits_per_code"].notna().all() and people["ssim_brain"].notna().all()


def test_metadata_gives_tables_by_sex_and_age(looked):
    cohort = json.loads((looked / "metrics.json").read_text())["cohort"]
    assert sum(split["people"] for split in cohort["splits"].values()) == 8
    assert sum(row["people"] for row in cohort["by_sex"].values()) == 2


def test_metadata_is_joined_by_image_where_people_are_image_ids(tmp_path):
    slices = pd.DataFrame({"subject": ["1", "2", "3"], "split": ["train", "train", "test"]})
    run = SimpleNamespace(slices=slices, config={"metadata": None}, folder=tmp_path / "run")
    pd.DataFrame({"Image Data ID": ["I1", "I2", "I9"], "Subject": ["002_S_1", "005_S_2", "002_S_1"]}).to_csv(
        tmp_path / "adni.csv", index=False
    )
    table = read_metadata(tmp_path / "adni.csv", run)
    assert list(table["subject"]) == ["1", "2"] and list(table["site"]) == ["002", "005"]
    assert read_metadata(None, run) is None
    run.config["metadata"] = str(tmp_path / "gone.csv")
    assert read_metadata(None, run) is None
    run.slices = slices.assign(subject=["7", "8", "X"])
    with pytest.raises(UserError, match="lists none of the run's people, such as 7"):
        read_metadata(tmp_path / "adni.csv", run)


def test_report_is_one_file_and_marked(evaluated):
    page = (evaluated / "report.html").read_text()
    assert "contains participants" in page and "data:image/png;base64," in page
    assert "http://" not in page and "https://" not in page and "<script" not in page and "<link" not in page
    for name in (
        "samples_and_real",
        "reconstructions",
        "samples_by_position",
        "nearest_neighbours",
        "null_bands",
        "spectrum",
        "power_by_band",
        "bits_map",
        "learning_curves",
        "codebook",
    ):
        image = np.asarray(Image.open(evaluated / "figures" / f"{name}.png").convert("L"))
        assert image.std() > 5, name


@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="there is no browser")
def test_report_in_a_headless_browser(evaluated, tmp_path):
    browser, picture = shutil.which("chromium") or shutil.which("google-chrome"), tmp_path / "page.png"
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--screenshot={picture}",
        "--window-size=420,2400",
        f"--user-data-dir={tmp_path}",
        f"file://{evaluated / 'report.html'}",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    page = np.asarray(Image.open(picture).convert("L"))
    assert page.shape[1] == 420 and (page < 100).any() and (page > 250).any()
    dumped = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            "--dump-dom",
            f"file://{evaluated / 'report.html'}",
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert dumped.count("<img") == 10 and "All numbers" in dumped


def test_comparison_is_paired_by_person(evaluated, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(evaluated, other)
    people = pd.read_csv(other / "people.csv")
    people["bits_per_code"] += [1.0, 1.5]
    people.to_csv(other / "people.csv", index=False)
    evaluate.main(["compare", str(evaluated), str(other), "--out", str(tmp_path / "compared")])
    paired = pd.read_csv(tmp_path / "compared/paired.csv").set_index("metric")
    assert paired.loc["bits_per_code", "difference"] == pytest.approx(1.25)
    assert paired.loc["ssim_brain", "difference"] == 0
    assert len(pd.read_csv(tmp_path / "compared/comparison.csv")) == 2
    assert (tmp_path / "compared/comparison.png").stat().st_size > 1000


def test_only_different_whole_evaluations_are_compared(evaluated, tmp_path):
    with pytest.raises(UserError, match="names one run twice"):
        evaluate.main(["compare", str(evaluated), str(evaluated)])
    other = tmp_path / "other"
    shutil.copytree(evaluated, other)
    (other / "people.csv").unlink()
    with pytest.raises(UserError, match="incomplete"):
        evaluate.main(["compare", str(evaluated), str(other)])


def save(folder, images):
    for image, label, position, person in zip(images.images, images.label, images.position, images.person, strict=True):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(label) / f"{person}_{position}.png")
    return str(folder)


def test_folders_of_any_generator(tmp_path):
    training, real = brains(8, seed=1, prefix="t"), brains(4, seed=2, prefix="r")
    copies = replace_images(brains(4, seed=2, prefix="g"), training.images[:16])
    flags = ["folder", save(tmp_path / "copies", copies), "--real", save(tmp_path / "real", real)]
    evaluate.main([*flags, "--train", save(tmp_path / "train", training), "--out", str(tmp_path / "out")])
    measured = json.loads((tmp_path / "out/metrics.json").read_text())
    check_metrics({name: value for name, value in measured.items() if name != "commit"})
    assert measured["memorisation"]["flagged"] and measured["memorisation"]["copies_fraction"] == 1
    assert "prior" not in measured and "reconstruction" not in measured
    evaluate.main([*flags, "--out", str(tmp_path / "without")])
    without = json.loads((tmp_path / "without/metrics.json").read_text())
    assert without["samples"]["against_real"]["frechet_null"] is None and "memorisation" not in without
    assert without["samples"]["against_reconstructions"] is None


def test_generated_images_of_predict_tell_their_label_and_position(finished_run, tmp_path):
    import predict

    slices_folder = make_slices(tmp_path / "slices", size=(32, 40))
    predict.main(["--run", str(finished_run), "--num-images", "8", "--out", str(tmp_path / "samples")])
    evaluate.main(
        [
            "folder",
            str(tmp_path / "samples"),
            "--real",
            str(slices_folder / "test"),
            "--train",
            str(slices_folder / "train"),
            "--out",
            str(tmp_path / "out"),
        ]
    )
    assert not any("unknown" in note for note in json.loads((tmp_path / "out/metrics.json").read_text())["notes"])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--run", "nowhere"], "there is no run at"),
        (["--real", "a"], "--real is no flag of python evaluate.py, but of python evaluate.py folder"),
        (["folder", "a"], "required: --real"),
        (["compare", "one"], "two runs or more"),
        (["--compare", "a", "b"], "the command is python evaluate.py compare"),
        (["folder", "nowhere", "--real", "nowhere"], "does not exist"),
        (["folder", "{empty}", "--real", "{data}"], "no PNG or JPEG image"),
        (["folder", "{other_size}", "--real", "{data}/test"], "different sizes"),
        (["folder", "{data}/test", "--real", "{data}/test", "--train", "{data}"], "share 2 people"),
        (["folder", "{data}/test", "--real", "{data}/train/AD/one"], "does not exist"),
        (["compare", "{run}", "{run}"], "has no metrics.json"),
        (["compare", "a", "b", "--quick"], "--quick is no flag of python evaluate.py compare"),
        (["--run", "{run}", "--out", "{data}"], "holds something other than an evaluation of copy"),
        (["--run", "{run}", "--out", "{data}/train/AD/100_70.png"], "is a file"),
        (["folder", "a", "--real", "b", "--shareable"], "--shareable needs --train"),
        (["--run", "{run}", "--split", "test", "--metadata", "{data}/nothing.csv"], "nothing.csv cannot be read"),
        (["--run", "{run}", "--features", "inception", "--num-samples", "20"], "needs 2,048 images"),
        (["--run", "{run}", "--features", "nothing.npy", "--num-samples", "20"], "cannot be read"),
    ],
)
def test_mistakes_are_one_sentence(flags, sentence, finished_run, evaluated, slices_folder, tmp_path, monkeypatch):
    run = tmp_path / "copy"
    shutil.copytree(finished_run, run)
    shutil.copytree(evaluated / "cache", run / "cache")  # for those that are found late
    (tmp_path / "empty").mkdir()
    places = {
        "data": slices_folder,
        "run": run,
        "empty": tmp_path / "empty",
        "other_size": save(tmp_path / "other", brains(3)),
    }
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence) as raised:
        evaluate.main([flag.format(**places) for flag in flags])
    assert "\n" not in str(raised.value)
    assert not (run / "metrics.json").exists() and not (run / "test_looks.csv").exists()


def test_too_few_people_are_refused(finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    slices = pd.read_csv(folder / "slices.csv", dtype=str)
    held_out = slices["subject"][slices["split"] == "validation"].unique()
    slices[slices["subject"] != held_out[0]].to_csv(folder / "slices.csv", index=False)
    with pytest.raises(UserError, match="fewer than two validation people"):
        evaluate.main(["--run", str(folder)])


def test_packages_of_the_evaluation_are_required():
    assert importlib.util.find_spec("sklearn")
