"""What the page of a run shows, without the page: pixels, marks, uploads, and what is refused."""

import gzip
import io
import socket
import zipfile
from base64 import b64encode

import nibabel
import numpy as np
import pytest
from PIL import Image

import predict
from report.marked import GAP, LINE, coloured, marked_png, png_bytes
from sampling import serving
from sampling.explore import archive, mark_of, painted_pixels, show_answer, show_completions, show_people, show_slices
from sampling.run import Run
from sampling.scoring import load_validation
from slices.frame import crop
from slices.images import load_images, save_nifti, save_png
from slices.uploads import in_frame, read_upload
from utils import UserError


@pytest.fixture
def run(finished_run):
    return Run(finished_run)


@pytest.fixture
def image(run, slice_path):
    """A test person's slice in the run's frame, (H, W) uint8."""
    return run.load(slice_path.parent, [slice_path.name]).images[0, ..., 0]


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def panel(run, png, i):
    """The i-th picture in the first row of what is shown of one slice: (H, W, 3) uint8."""
    left = i * (run.box.width + GAP)
    return pixels(png)[: run.box.height, left : left + run.box.width]


# ---- pictures that say what they are ------------------------------------------------------------


def test_pictures_stay_as_they_are_and_the_mark_is_below_them():
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (9, 60), dtype=np.uint8) for _ in range(3)]
    sheet = pixels(marked_png(pictures, ["a", "b", "c"], "simulated", columns=2))
    assert sheet.shape == (2 * (9 + LINE + GAP) + LINE + GAP, 60 + GAP + 60) and sheet.dtype == np.uint8
    for picture, (top, left) in zip(pictures, ((0, 0), (0, 60 + GAP), (9 + LINE + GAP, 0)), strict=True):
        assert np.array_equal(sheet[top : top + 9, left : left + 60], picture)
    foot = sheet[-LINE - GAP :]
    assert foot.max() == 255
    assert np.array_equal(pixels(marked_png(pictures, ["x", "y", "z"], "simulated", columns=2))[-LINE - GAP :], foot)
    assert not np.array_equal(
        pixels(marked_png(pictures, ["a", "b", "c"], "stimulated", columns=2))[-LINE - GAP :], foot
    )


def test_a_mark_is_never_cut_off():
    narrow = pixels(marked_png([np.zeros((5, 8), np.uint8)], [""], "of a model, not of people"))
    assert not narrow[:, -1].any() and not narrow[-1].any() and narrow[5:].any()
    assert narrow.shape[0] == 5 + GAP + 4 * LINE + GAP  # a word or two in each line: of a; model,; not of; people


def test_one_picture_in_colours_makes_all_of_them_colours_and_numbers_beyond_the_ends_have_theirs():
    red = coloured(np.array([[-9.0, 0, 1, 9]]), "gray", 0, 1)
    assert red.tolist() == [[[0] * 3, [0] * 3, [255] * 3, [255] * 3]]
    sheet = pixels(marked_png([np.full((1, 4), 7, np.uint8), red], ["", ""], "simulated", 2))
    assert sheet[0, :4].tolist() == [[7] * 3] * 4 and np.array_equal(sheet[:1, 4 + GAP : 8 + GAP], red)


# ---- what is drawn ------------------------------------------------------------------------------


def test_slices_are_those_of_predict(run, finished_run, tmp_path):
    given = {"label": "AD", "position": 2, "seed": 3, "temperature": 0.9, "guidance": 1.5}
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    predict.main(["--run", str(finished_run), "--num-images", "3", "--out", str(tmp_path / "out"), *flags])
    shown = show_slices(run, 3, **given)
    assert [one.name for one in shown] == [f"brain_{i:05d}.png" for i in range(3)]
    for one in shown:
        written = np.asarray(Image.open(tmp_path / "out" / one.name))
        assert np.array_equal(pixels(one.png)[: run.frame[0], : run.frame[1]], written)
    with zipfile.ZipFile(io.BytesIO(archive(shown))) as file:
        assert {name: file.read(name) for name in file.namelist()} == {one.name: one.png for one in shown}


def test_people_are_those_of_predict(run, finished_run, tmp_path):
    predict.main(
        ["people", "--run", str(finished_run), "--num-people", "2", "--seed", "4", "--out", str(tmp_path / "out")]
    )
    shown, box = show_people(run, 2, None, 4), run.box
    assert [one.name for one in shown] == ["sampled00000.png", "sampled00001.png"]
    for one in shown:
        person = one.name.removesuffix(".png")
        paths = sorted((tmp_path / "out" / person).glob("sampled*.png"))
        slices = np.stack([np.asarray(Image.open(path)) for path in paths])[..., None]
        line = np.hstack(list(crop(slices, box)[..., 0]))  # the four slices stand in the first row
        sheet = pixels(one.png)
        places = range(sheet.shape[1] - line.shape[1] + 1)
        found = [x for x in places if np.array_equal(sheet[: box.height, x : x + line.shape[1]], line)]
        assert len(found) == 1


def test_the_mark_is_simulated_for_simulated_people_only(run):
    assert mark_of(run) == "of a model, not of people"
    run.config["simulated"] = True
    assert mark_of(run) == "simulated"


# ---- what is given ------------------------------------------------------------------------------


def test_an_uploaded_picture_is_what_the_run_loads(run, slice_path, tmp_path):
    deep = np.zeros((20, 30), np.uint16)
    deep[5:15, 5:25] = np.arange(20) * 40
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.open(slice_path).convert("RGB").save(tmp_path / "a.jpg", quality=90)
    for path in (slice_path, tmp_path / "deep.png", tmp_path / "a.jpg"):
        (given,) = read_upload(path.name, path.read_bytes())
        loaded = load_images(path.parent, [path.name], run.frame).images[0, ..., 0]
        assert np.array_equal(in_frame(given, run.frame), loaded)


def test_a_volume_is_its_slices_from_the_lowest_upwards(image, tmp_path):
    stack = np.stack([image, image // 2, image // 3])  # (S, H, W)
    save_nifti(tmp_path / "a.nii.gz", stack.transpose(1, 2, 0), 1.0)
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert np.array_equal(read_upload("a.nii.gz", content), stack)
    assert np.array_equal(read_upload("a.nii", gzip.decompress(content)), stack)
    turned = nibabel.load(tmp_path / "a.nii.gz").slicer[::-1]  # its header says so
    assert np.array_equal(read_upload("b.nii", turned.to_bytes()), stack)


def test_voxels_of_any_range_become_bytes():
    voxels = np.zeros((4, 5, 1), np.float32)
    voxels[1:3, 1:4, 0] = [[1000, 2000, 3000]] * 2
    voxels[0, 0, 0] = np.nan
    (plane,) = read_upload("a.nii", nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes())
    assert plane.shape == (5, 4) and plane[3, 1] == 0 and plane[2, 1] == 128 and plane[1, 1] == 255


def nifti(voxels):
    return nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"hello", r"a\.x cannot be read \(not a PNG, JPEG or NIfTI file\)"),
        (b"", r"a\.x cannot be read \(not a PNG"),
        (png_bytes(np.zeros((50, 50), np.uint8))[:60], r"a\.x cannot be read \("),
        (b"\x1f\x8bhello", "its compression is damaged"),
        (gzip.compress(bytes(2**20)), "not a PNG"),
        (nifti(np.ones((3, 3, 3, 2), np.uint8)), "holds 3x3x3x2 voxels, not one volume"),
        (nifti(np.zeros((3, 3, 3), np.float32)), "none of its voxels is over 0"),
        (nifti(np.ones((3, 3, 3), np.complex64)), "no grey values"),
        (nifti(np.ones((3, 3, 3), np.uint8))[:360], r"a\.x cannot be read \("),
    ],
)
def test_what_is_no_slice_is_refused_in_a_sentence(content, sentence):
    with pytest.raises(UserError, match=sentence) as refused:
        read_upload("a.x", content)
    assert "\n" not in str(refused.value)


def test_large_files_are_refused_also_where_they_are_packed(monkeypatch):
    with pytest.raises(UserError, match="a has 21 MB: no file over 20 MB is taken"):
        read_upload("a", bytes(21 * 2**20))
    monkeypatch.setattr("slices.uploads.LARGEST_UNPACKED", 1)
    with pytest.raises(UserError, match="unpacks to more than 1 MB"):
        read_upload("a", gzip.compress(bytes(2**20 + 1)))


# ---- what is said of it -------------------------------------------------------------------------


def test_an_answer_shows_the_slice_its_reconstruction_and_the_maps(run, image):
    bits, everything = (show_answer(run, image, "AD", 1, validation) for validation in (None, load_validation(run)))
    grey = pixels(bits.png)
    assert np.array_equal(panel(run, bits.png, 0)[..., 0], crop(image[..., None], run.box)[..., 0])
    assert np.array_equal(panel(run, bits.png, 1)[..., 0], run.decode_crops(run.encode(image[None]))[0])
    codes = coloured(run.encode(image[None])[0], "turbo", 0, run.config["num_codes"] - 1)  # (h, w, 3)
    patch = run.config["downsample"]
    assert np.array_equal(panel(run, bits.png, 2)[::patch, ::patch], codes)
    assert grey.shape[1] == pixels(everything.png).shape[1] and grey.shape[0] < pixels(everything.png).shape[0]


def test_completions_are_those_of_predict_with_the_rest_as_a_mask(run, image, finished_run, tmp_path):
    painted = np.zeros(run.frame, bool)
    painted[14:24, 16:30] = True
    save_png(tmp_path / "slice.png", image)
    save_png(tmp_path / "mask.png", np.where(painted, 0, 255).astype(np.uint8))
    words = ["--keep", str(tmp_path / "mask.png"), "--num-images", "2", "--label", "AD", "--position", "1"]
    predict.main(
        ["complete", str(tmp_path / "slice.png"), "--run", str(finished_run), "--out", str(tmp_path / "out"), *words]
    )
    shown = show_completions(run, image, painted, 2, "AD", 1)
    written = np.asarray(Image.open(tmp_path / "out" / "completion_00000.png"))
    assert np.array_equal(panel(run, shown.png, 2)[..., 0], crop(written[..., None], run.box)[..., 0])
    kept = np.where(painted, image // 4, image)
    assert np.array_equal(panel(run, shown.png, 1)[..., 0], crop(kept[..., None], run.box)[..., 0])


def test_nothing_painted_and_all_painted_are_refused(run, image):
    with pytest.raises(UserError, match="nothing is painted"):
        show_completions(run, image, np.zeros(run.frame, bool))
    with pytest.raises(UserError, match="paint over less"):
        show_completions(run, image, np.ones(run.frame, bool))


def url(picture):
    return f"data:image/png;base64,{b64encode(png_bytes(picture)).decode()}"


def test_what_is_painted_is_what_is_not_transparent(run):
    canvas = np.zeros((*run.frame, 4), np.uint8)
    canvas[3:5, 7] = 255, 75, 75, 255
    painted = painted_pixels(run, url(canvas))
    assert np.argwhere(painted).tolist() == [[3, 7], [4, 7]]
    assert not painted_pixels(run, None).any()
    for wrong in (url(canvas[1:]), "data:image/png;base64,AAAA", "data:,"):
        with pytest.raises(UserError, match="what was painted"):
            painted_pixels(run, wrong)


# ---- the server ---------------------------------------------------------------------------------


def test_without_streamlit_a_sentence_says_what_to_install(finished_run, monkeypatch):
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install {serving.STREAMLIT}$"):
        predict.main(["explore", "--run", str(finished_run)])


def test_an_address_that_is_taken_or_is_none_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="choose another --port"):
        serving.check_address("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match="nothing can listen at no.such.host.invalid"):
        serving.check_address("no.such.host.invalid", 8501)


def test_it_listens_on_this_machine_and_tells_nobody():
    settings = serving.settings("127.0.0.1", 8501)
    assert {("server.address", "127.0.0.1"), ("browser.gatherUsageStats", "false")} <= set(settings)
    assert [value for name, value in settings if name == "server.allowedHosts"] == ["127.0.0.1", "localhost"]
    assert "server.allowedHosts" not in dict(serving.settings("10.0.0.7", 8501))
