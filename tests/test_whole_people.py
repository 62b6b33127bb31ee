"""Whole people: a stack of slices each, as arrays, as folders, as volumes, and as views from the front and the side."""

from types import SimpleNamespace

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import sampling.people
import sampling.people_folder
from metrics.told_bits import codes_told
from sampling.people import choose_labels, draw_stack, slice_names, slices_told
from sampling.run import Run, prior_bits
from slices.neighbours import slices_below
from slices.views import GAP, coronal_views, sagittal_views, square
from utils import UserError


@pytest.fixture(scope="module")
def run(finished_run):
    return Run(finished_run)


def bits_of(run, people, position):
    """The bits (P,) of the slices of people of the label NC at one position, told those below them."""
    drawn = [people.codes[:, below] for below in range(position)]
    ids = {"label": np.full(len(people.codes), 2, np.int32), "position": np.full(len(people.codes), position + 1)}
    bits = prior_bits(run.prior, people.codes[:, position], ids, context=slices_told(run.prior, drawn))
    return -bits.sum(axis=(1, 2))


def test_people_hold_together(run):
    people = run.sample_people(3, label="NC")
    assert people.images.shape == (3, 4, *run.frame) and people.images.dtype == np.uint8
    assert people.codes.shape == (3, 4, *run.code_grid) and people.bits.shape == (3, 4)
    assert people.label.tolist() == [2, 2, 2] and list(people.table["label"]) == ["NC"] * 3
    assert np.array_equal(run.decode_person(people.codes[1]), people.images[1])
    assert np.allclose(people.table["log_likelihood_bits"], people.bits.sum(axis=1), atol=1e-4)
    for position in range(4):
        assert np.allclose(bits_of(run, people, position), people.bits[:, position], atol=1e-3)
    untold = -run.bits(people.codes[:, 2], "NC", 2).sum(axis=(1, 2))
    assert not np.allclose(untold, people.bits[:, 2], atol=1e-3)


def test_guided_people_are_others_and_their_bits_stay_those_of_the_model(conditions_matter, run):
    plain, guided = (run.sample_people(2, label="NC", guidance=value) for value in (1, 3))
    assert not np.array_equal(plain.codes, guided.codes)
    assert np.allclose(bits_of(run, guided, 3), guided.bits[:, 3], atol=1e-3)


def test_a_person_is_the_same_among_any_number_of_people(run):
    many, few = run.sample_people(34, seed=3), run.sample_people(2, seed=3)
    part = run.sample_people(34, seed=3, shard=(2, 2))
    assert np.array_equal(few.images, many.images[:2]) and few.table.equals(many.table[:2])
    assert np.array_equal(part.images, many.images[17:]) and list(part.table["index"]) == list(range(17, 34))
    assert not np.array_equal(run.sample_people(2, seed=4).codes, few.codes)


def test_a_person_is_the_same_in_blocks_of_any_size_and_the_row_names_that(run):
    many, few = run.sample_people(5, seed=3, block=2), run.sample_people(3, seed=3, block=2)
    part = run.sample_people(5, seed=3, shard=(2, 2), block=2)
    assert np.array_equal(few.images, many.images[:3]) and few.table.equals(many.table[:3])
    assert np.array_equal(part.images, many.images[2:]) and set(many.table["block"]) == {2}


def test_labels_are_those_of_training_people(run):
    labels = choose_labels(run, 200)
    assert set(labels) == {1, 2} and 60 < (labels == 1).sum() < 140  # three of each are trained on
    assert np.array_equal(choose_labels(run, 50), labels[:50])
    assert choose_labels(run, 2, "none").tolist() == [0, 0] and choose_labels(run, 1, "NC").tolist() == [2]


def test_slices_are_drawn_upwards_and_each_could_be_told_those_below(run, monkeypatch):
    asked = []

    def draw_slice(prior, drawn, labels, position, uniforms, **draw):
        asked.append((len(drawn), position, draw))
        assert all(np.array_equal(codes, np.full((2, 1, 1), below)) for below, codes in enumerate(drawn))
        return np.full((2, 1, 1), position), np.full(2, -np.log(2) * position)

    monkeypatch.setattr(sampling.people, "draw_slice", draw_slice)
    codes, bits = draw_stack(run, np.array([1, 2]), np.zeros((2, 3, 1, 1)), temperature=0.5)
    assert asked == [(0, 0, {"temperature": 0.5}), (1, 1, {"temperature": 0.5}), (2, 2, {"temperature": 0.5})]
    assert np.array_equal(codes[:, :, 0, 0], [[0, 1, 2]] * 2) and np.allclose(bits, [[0, -1, -2]] * 2)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sampling_tells_the_slices_that_training_told(count):
    codes = np.random.default_rng(0).integers(0, 9, (5, 2, 3)).astype(np.int32)
    told, gaps = codes_told(codes, *slices_below(pd.DataFrame({"scan": "a", "position": range(5)}), count))
    prior = SimpleNamespace(num_contexts=count)
    assert slices_told(prior, []) is None and slices_told(SimpleNamespace(num_contexts=0), [codes[:1]]) is None
    for position in range(1, 5):
        drawn = [codes[below : below + 1].repeat(2, axis=0) for below in range(position)]  # of two people
        for found, right in zip(slices_told(prior, drawn), (told, gaps), strict=True):
            assert np.array_equal(found, right[[position, position]])


def test_names_are_in_the_order_of_the_head():
    assert slice_names("sampled00003", 11)[:2] == ["sampled00003_00.png", "sampled00003_01.png"]
    assert slice_names("sampled00003", 4)[-1] == "sampled00003_3.png"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"num_people": 0}, "num_people must be a whole number from 1"),
        ({"label": "MCI"}, "unknown --label MCI: this run has AD, NC and none"),
        ({"num_people": 2, "shard": (3, 3)}, "make 2 parts at most"),
        ({"temperature": 0}, "temperature must be"),
        ({"guidance": 21}, "guidance must be"),
    ],
)
def test_mistakes_are_one_sentence(wrong, sentence, run):
    with pytest.raises(UserError, match=sentence):
        run.sample_people(**wrong)


# ---- the folder -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(finished_run, tmp_path_factory):
    """What predict.py people writes for 2 people of 2 mm pixels and slices 1 mm apart."""
    import predict

    out = tmp_path_factory.mktemp("people") / "out"
    flags = ["--num-people", "2", "--label", "AD", "--seed", "5", "--pixel-size", "2", "--spacing", "1"]
    predict.main(["people", "--run", str(finished_run), "--out", str(out), *flags])
    return out


def test_the_call_and_the_script_give_the_same_bytes(folder, run):
    people = run.sample_people(2, label="AD", seed=5)
    for person, stack in zip(people.table["person"], people.images, strict=True):
        paths = sorted((folder / person).glob(f"{person}_*.png"))
        assert [path.name for path in paths] == slice_names(person, 4)
        assert np.array_equal(np.stack([np.asarray(Image.open(path)) for path in paths]), stack)
    assert pd.read_csv(folder / "people.csv").astype(str).equals(people.table.astype(str))


def test_the_volume_knows_where_left_front_and_up_are(folder, run):
    stack = run.sample_people(2, label="AD", seed=5).images[1]  # (S, H, W): upwards, backwards, to the right
    volume = nibabel.load(folder / "sampled00001" / "sampled00001.nii.gz")
    assert volume.shape == (40, 32, 4) and nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert volume.header.get_zooms() == (2, 2, 1) and volume.header["descrip"].item().endswith(b"a scan of nobody")
    assert np.array_equal(np.asarray(volume.dataobj), stack[:, ::-1].transpose(2, 1, 0))
    assert np.allclose(volume.affine @ [19.5, 15.5, 1.5, 1], [0, 0, 0, 1])


def test_pictures_are_called_what_readers_of_folders_leave_out(folder):
    from slices.index import find_slices

    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    slices = {f"{person}/{name}" for person in ("sampled00000", "sampled00001") for name in slice_names(person, 4)}
    assert {name for name in names if name.endswith(".png") and "contact_sheet" not in name} == slices
    assert set(find_slices(folder)["path"]) == slices
    assert {"people.csv", "contact_sheet.png", "contact_sheet_views.png"} <= names
    assert {f"sampled00001/contact_sheet_{view}.png" for view in ("coronal", "sagittal")} <= names


def test_it_is_said_where_slices_do_not_agree(run_predict, capsys, monkeypatch):
    out = run_predict("people", "--num-people", 1)
    said = capsys.readouterr()
    assert "do not agree" not in said.err and f"1 person of 4 slices: {out}" in said.out
    monkeypatch.setattr(sampling.people_folder, "is_told", lambda run: False)
    run_predict("people", "--num-people", 1, out="untold")
    assert "do not agree" in capsys.readouterr().err
    with pytest.raises(UserError, match="already holds something"):
        run_predict("people", "--num-people", 1)


# ---- views ------------------------------------------------------------------------------------


def head():
    """(3, 12, 20) uint8: a box of brain, brighter from slice to slice, with a bright spot at its front on the left."""
    stack = np.zeros((3, 12, 20), np.uint8)
    stack[:, 1:11, 5:15] = 50 * np.arange(1, 4)[:, None, None]
    stack[:, 1:4, 5:9] = 250
    return stack


def test_a_plane_gets_square_pixels_and_every_slice_stays_a_band():
    plane = np.array([[1, 2], [3, 4]], np.uint8)
    assert np.array_equal(square(plane, 1, 2, 1), [[1, 2], [1, 2], [3, 4], [3, 4]])
    assert np.array_equal(square(plane, 2, 1, 1), [[1, 1, 2, 2], [3, 3, 4, 4]])
    assert np.array_equal(square(plane, 1, 1.5, 2)[:, ::2], [[1, 2]] * 3 + [[3, 4]] * 3)
    assert np.array_equal(square(plane, 0.9, 0.9, 1), plane)


def test_coronal_views_have_the_left_at_the_left_and_the_top_at_the_top():
    views = coronal_views(head(), scale=1)  # at the rows 4, 5 and 7 of the brain's 1 … 10
    assert views.shape == (3, 3 * 10 + 2 * GAP)
    assert np.array_equal(views[:, :10], np.repeat([[150], [100], [50]], 10, axis=1))


def test_sagittal_views_have_the_front_at_the_right():
    views = sagittal_views(head(), scale=1)  # at the columns 8, 9 and 12 of the brain's 5 … 14
    assert np.array_equal(views[0, :10], [150] * 7 + [250] * 3) and (views[0, -10:] == 150).all()


def test_views_of_nothing_are_of_the_whole_frame():
    assert coronal_views(np.zeros((2, 6, 8), np.uint8), scale=2).shape == (4, 3 * 16 + 2 * GAP)
