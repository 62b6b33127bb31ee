"""The demo cohort: whole or not at all, the same bytes every time, and the anatomy it promises."""

import json
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from PIL import Image

from slices import cohort
from utils import UserError

SIZE = (48, 64)


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def read(path):
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return cohort.make_cohort(tmp_path_factory.mktemp("cohort") / "demo", 4, 3, SIZE, workers=2)


@pytest.fixture(scope="module")
def manifest(made):
    return json.loads((made / "manifest.json").read_text())


@pytest.fixture(scope="module")
def full_size():
    """One person's slices at 1 mm, and their areas."""
    return cohort.render(cohort.draw_person(3, 1), cohort.template(), np.random.default_rng(0))


# ---- what is made ---------------------------------------------------------------------------


def test_the_same_bytes_again_with_another_number_of_workers(made, tmp_path):
    assert contents(cohort.make_cohort(tmp_path / "again", 4, 3, SIZE, workers=1)) == contents(made)


def test_a_person_does_not_depend_on_the_number_of_people_or_the_split(manifest, made, tmp_path):
    more = cohort.build(tmp_path / "five", 5, 3, SIZE, workers=1)
    for one, same in zip(more, manifest["subjects"], strict=False):
        assert (one["subject"], one["label"]) == (same["subject"], same["label"])
        assert one["ventricle_scale"] == same["ventricle_scale"]
        for a, b in zip(one["slices"], same["slices"], strict=True):
            assert (tmp_path / "five" / a["file"]).read_bytes() == (made / b["file"]).read_bytes()
            assert a["ventricle_area_mm2"] == b["ventricle_area_mm2"]


def test_another_seed_makes_other_people():
    assert cohort.draw_person(0, 5).ventricle_scale != cohort.draw_person(1, 5).ventricle_scale


def test_layout(made, manifest):
    listed = [entry["file"] for record in manifest["subjects"] for entry in record["slices"]]
    assert sorted([*listed, "manifest.json"]) == list(contents(made))
    assert manifest["simulated"] is True
    assert (manifest["people"], manifest["seed"], manifest["image_size"]) == (4, 3, list(SIZE))
    assert [record["label"] for record in manifest["subjects"]] == ["AD", "NC"] * 2
    for record in manifest["subjects"]:
        folder = f"{record['split']}/{record['label']}/{record['subject']}_"
        numbers = [int(entry["file"].removeprefix(folder).removesuffix(".png")) for entry in record["slices"]]
        assert numbers == list(range(numbers[0], numbers[0] + 20))
    image = Image.open(made / listed[0])
    assert (image.mode, image.size) == ("L", SIZE[::-1])


@pytest.mark.parametrize(("people", "tested"), [(4, (1, 1)), (7, (1, 1)), (100, (10, 10))])
def test_a_fifth_of_each_label_is_the_test_split(people, tested):
    splits = cohort.split_people(people, seed=0)
    assert len(splits) == people
    assert (splits[0::2].count("test"), splits[1::2].count("test")) == tested


def test_the_fingerprint_is_that_of_the_files(made, manifest, tmp_path):
    assert cohort.fingerprint(made, manifest["subjects"]) == manifest["fingerprint"]
    changed, last = tmp_path / "changed", manifest["subjects"][-1]["slices"][-1]["file"]
    for name, data in contents(made).items():
        (changed / name).parent.mkdir(parents=True, exist_ok=True)
        (changed / name).write_bytes(data[:-1] if name == last else data)
    assert cohort.fingerprint(changed, manifest["subjects"]) != manifest["fingerprint"]


# ---- anatomy --------------------------------------------------------------------------------


def test_ventricles_are_larger_in_ad(manifest):
    areas = {"AD": [], "NC": []}
    for record in manifest["subjects"]:
        areas[record["label"]] += [entry["ventricle_area_mm2"] for entry in record["slices"]]
    assert min(areas["AD"] + areas["NC"]) > 0
    assert np.mean(areas["AD"]) > 1.2 * np.mean(areas["NC"])


def test_a_larger_scale_means_larger_dark_ventricles():
    person, seen = cohort.draw_person(0, 0), []
    for person.ventricle_scale in (1.0, 2.0):
        images, areas = cohort.render(person, cohort.template(), np.random.default_rng(0))
        dark = (images > 0) & (images < 0.2)
        seen.append((areas.sum(), dark[:, 60:180, 98:158].sum()))
    (area, dark), (larger_area, larger_dark) = seen
    assert larger_area > 1.5 * area
    assert larger_dark - dark == pytest.approx(larger_area - area, rel=0.35)  # the area tells what is seen


def test_background_is_exactly_zero_and_the_brain_is_centred(made, manifest, full_size):
    images, _ = full_size
    assert images.shape == (20, 240, 256) and images.dtype == np.float32
    assert 0.65 < (images == 0).mean() < 0.85
    assert images.max() <= 1 and (images[:, 100:140, 108:148] > 0).all()
    occupied = np.argwhere(images.any(0))
    assert np.abs(occupied.mean(0) - [119.5, 127.5]).max() < 6
    for entry in manifest["subjects"][0]["slices"]:
        image = read(made / entry["file"])
        assert not image[[0, 1, -2, -1]].any() and not image[:, [0, 1, -2, -1]].any()


def test_anterior_is_at_the_top(full_size):
    images, _ = full_size
    start = [side.start for side in cohort.SLAB]
    z = round(cohort.TOP - cohort.BELOW_TOP / 0.845) + cohort.ORIGIN[2] - start[2]
    y, x = cohort.ORIGIN[1] + cohort.CENTRE[1] - start[1], cohort.ORIGIN[0] - start[0]
    brain = cohort.template().brain[:, :, z]
    template = np.stack(
        [
            [brain[x + column, y + row] * cohort.template().t1[x + column, y + row, z] for column in range(-70, 71)]
            for row in range(88, -89, -1)
        ]
    )  # (177, 141)
    resized = Image.fromarray(template).resize((124, 156))
    picture = images[10][119 - 78 : 119 + 78, 127 - 62 : 127 + 62]
    upright, flipped = (np.corrcoef(picture.ravel(), np.asarray(resized)[::step].ravel())[0, 1] for step in (1, -1))
    assert upright > flipped + 0.1


def test_left_is_at_the_left():
    """The template is symmetric, so move one person's left hemisphere and look where the picture changes."""
    person = cohort.draw_person(0, 1)
    person.coarse, person.fine, person.tilt = 0 * person.coarse, 0 * person.fine, np.zeros(3)
    person.coarse[0, :4] = 20  # control points at x < 0, the left of the template
    places, _ = cohort.warp(person)
    straight = cohort.draw_person(0, 1)
    straight.coarse, straight.fine, straight.tilt = 0 * person.coarse, 0 * person.fine, np.zeros(3)
    moved = np.abs(places - cohort.warp(straight)[0]).sum((0, 1, 2))  # (160,) per column
    assert moved[:40].min() > 0 and moved[-40:].max() == 0


def test_the_template_is_pulled_back_without_folds():
    places, _ = cohort.warp(cohort.draw_person(0, 0))
    steps = np.stack([np.stack(np.gradient(axis)) for axis in places])  # (3, 3, 20, 192, 160)
    determinant = np.linalg.det(np.moveaxis(steps, (0, 1), (-2, -1)))
    assert determinant.min() * determinant.max() > 0


@pytest.mark.parametrize("tilt", [(0.1, 0.2, 0.3), (0, 0, 0)])
def test_rotation(tilt):
    assert cohort.rotation(*tilt) @ cohort.rotation(*tilt).T == pytest.approx(np.eye(3))
    assert np.linalg.det(cohort.rotation(*tilt)) == pytest.approx(1)


# ---- refusals -------------------------------------------------------------------------------


def test_a_finished_cohort_is_returned_untouched(made, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    monkeypatch.setattr(cohort, "build", None)  # calling it would fail
    assert cohort.make_cohort(made, 4, 3, SIZE) == made
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


@pytest.mark.parametrize("arguments", [(8, 3, SIZE), (4, 4, SIZE), (4, 3, (64, 64))])
def test_another_cohort_in_the_folder_is_refused(made, arguments):
    before = contents(made)
    with pytest.raises(UserError, match="holds a demo cohort with"):
        cohort.make_cohort(made, *arguments)
    assert contents(made) == before


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_anything_else_in_the_folder_is_refused(tmp_path, name):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / name).write_text('{"name": "mine"}')
    with pytest.raises(UserError, match="something other than a demo cohort"):
        cohort.make_cohort(tmp_path / "demo", 4, 0, SIZE)
    assert contents(tmp_path) == {f"demo/{name}": b'{"name": "mine"}'}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((3, 0, SIZE), "at least 4 people"), ((4, 0, (31, 64)), "at least 32 pixels"), ((4, -1, SIZE), "seed")],
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        cohort.make_cohort(tmp_path / "demo", *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "file/demo"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="cannot be"):
        cohort.make_cohort(tmp_path / place, 4, 0, SIZE)
    assert contents(tmp_path) == {"file": b"kept"}


def test_without_nilearn_the_user_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(cohort, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install nilearn"):
        cohort.make_cohort(tmp_path / "demo", 4, 0, SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("failure", "raised"), [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left"), UserError)]
)
def test_a_failure_midway_leaves_nothing(tmp_path, monkeypatch, failure, raised):
    def fail(*person):
        raise failure

    monkeypatch.setattr(cohort, "fingerprint", fail)

    def write(folder, *rest):
        (folder / "train/AD/1_1.png").write_bytes(b"")
        return {"subject": "1"}

    monkeypatch.setattr(cohort, "write_person", write)
    with pytest.raises(raised):
        cohort.make_cohort(tmp_path / "demo", 4, 0, SIZE, workers=1)
    assert not list(tmp_path.iterdir())


def test_two_processes_that_make_one_cohort_agree(tmp_path, monkeypatch):
    """The slower one keeps what the faster one made, and neither leaves anything unfinished."""
    build = cohort.build

    def overtaken(*arguments):
        monkeypatch.setattr(cohort, "build", build)
        cohort.make_cohort(tmp_path / "demo", 4, 0, (32, 32), workers=1)
        return build(*arguments)

    monkeypatch.setattr(cohort, "build", overtaken)
    cohort.make_cohort(tmp_path / "demo", 4, 0, (32, 32), workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert cohort.holds_cohort(tmp_path / "demo", {"people": 4})


def test_a_cohort_whose_worker_is_killed_is_one_sentence(tmp_path, monkeypatch):
    def killed(*arguments):
        raise BrokenProcessPool

    monkeypatch.setattr(cohort, "build", killed)
    with pytest.raises(UserError, match="a worker was killed"):
        cohort.make_cohort(tmp_path / "demo", 4, 0, (32, 32))
    assert list(tmp_path.iterdir()) == []
