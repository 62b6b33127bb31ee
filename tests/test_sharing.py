"""What lets others look at a run: formats, the export, the model card, the reader study, the poster, TensorBoard."""

import base64
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import keras
import nibabel
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector import ProjectorConfig
from test_train import ROOT, run_script, sample

import dataset
import evaluate
import modules
import predict
import report
import train
import utils
from utils import UserError

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


# ---- formats ----------------------------------------------------------------------------------


def test_all_formats_hold_the_same_images(finished_run, tmp_path):
    names = list(sample(finished_run, tmp_path / "png", "--num-images", "3"))
    images = np.stack([np.asarray(Image.open(tmp_path / "png" / name)) for name in names])  # (3, H, W)
    for kind in ("npy", "nifti"):
        sample(finished_run, tmp_path / kind, "--num-images", "3", "--format", kind, "--pixel-size", "2")
        tables = [pd.read_csv(tmp_path / folder / "samples.csv").drop(columns="file") for folder in ("png", kind)]
        assert tables[0].equals(tables[1])
    assert np.array_equal(np.load(tmp_path / "npy" / "brains.npy"), images)
    for name, image in zip(names, images, strict=True):
        nifti = nibabel.load(tmp_path / "nifti" / name.replace(".png", ".nii.gz"))
        assert nifti.shape == (*image.T.shape, 1) and nifti.get_data_dtype() == np.uint8
        assert np.array_equal(np.asarray(nifti.dataobj)[..., 0], image[::-1].T)


def test_nifti_lies_in_space_as_the_slice_does(tmp_path):
    image = np.zeros((6, 10, 1), np.uint8)
    image[1, 8] = 255  # in front, and on the right
    utils.save_nifti(tmp_path / "a.nii.gz", image, 2.0)
    nifti = nibabel.load(tmp_path / "a.nii.gz")
    assert nibabel.aff2axcodes(nifti.affine) == ("R", "A", "S") and nifti.header.get_zooms() == (2.0, 2.0, 1.0)
    place = nifti.affine @ [*np.argwhere(np.asarray(nifti.dataobj))[0], 1]
    assert place.tolist() == [2.0 * (8 - 4.5), 2.0 * (2.5 - 1), 0.0, 1.0]  # mm to the right and to the front of centre
    utils.save_nifti(tmp_path / "b.nii.gz", image, 2.0)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


# ---- the export -------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(2, 3, 4, 5), (-2, -1, 12, 11), (0, 0, 8, 9), (5, -3, 6, 20)])
def test_a_window_crops_and_pastes_as_the_data_set_does(box):
    images = np.random.default_rng(0).random((2, 8, 9, 1), np.float32)
    box = dataset.Box(*box)
    crops = dataset.crop(images, box)
    assert np.array_equal(modules.window(images, *box), crops)
    assert np.array_equal(modules.window(crops, -box.top, -box.left, 8, 9), dataset.paste(crops, box, (8, 9)))


FOREIGN = """
import os
import sys
import numpy as np
import tensorflow as tf

given = np.load("given.npz")
model = tf.saved_model.load("adni-model")
drawn = model.sample(given["uniforms"], given["label"], given["position"], 0.9)
served = model.signatures["sample"](uniforms=given["uniforms"], label=given["label"], position=given["position"],
                                    temperature=tf.constant(0.9))
assert np.array_equal(served["codes"], drawn["codes"]) and set(model.signatures) >= {"encode", "decode", "sample"}
np.savez("taken.npz", **drawn, encoded=model.encode(given["images"])["codes"],
         decoded=model.decode(drawn["codes"])["images"])
code = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
assert not [path for path in code if os.path.dirname(path) in sys.argv[1:]], "the code of the repository was imported"
"""


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    """A folder with the tiny run's export in adni-model."""
    folder = tmp_path_factory.mktemp("export")
    predict.main(["--run", str(finished_run), "--export", str(folder / "adni-model")])
    return folder


def elsewhere(folder, code):
    """Run Python code in ``folder``, where this repository is not to be found."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-I", "-c", code, ROOT, ROOT / "tests"], cwd=folder, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_export_equals_the_run_in_a_process_without_this_code(finished_run, exported, tmp_path):
    vqvae, prior = utils.load_models(finished_run)
    config = utils.read_config(finished_run)
    box, frame = dataset.Box(*config["crop_box"]), config["frame"]
    sample(finished_run, tmp_path / "out", "--num-images", "40", "--seed", "7", "--temperature", "0.9")
    rows = pd.read_csv(tmp_path / "out" / "samples.csv")
    label = rows["label"].map({name: i + 1 for i, name in enumerate(config["labels"])}).to_numpy(np.int32)
    position = rows["position"].to_numpy(np.int32) + 1
    uniforms = np.stack([utils.random_generator(7, "codes", i).random(prior.grid, np.float32) for i in range(40)])
    images = np.random.default_rng(0).random((3, *frame, 1), np.float32)
    np.savez(exported / "given.npz", uniforms=uniforms, label=label, position=position, images=images)
    elsewhere(exported, FOREIGN)
    taken = np.load(exported / "taken.npz")

    assert np.array_equal(taken["encoded"], vqvae.encode(dataset.crop(images, box)))
    decoded = dataset.paste(np.asarray(vqvae.decode(taken["codes"])), box, frame)
    assert np.allclose(taken["decoded"], decoded, atol=1e-5)
    pngs = np.stack([np.asarray(Image.open(tmp_path / "out" / name)) for name in rows["file"]])
    assert np.array_equal(utils.to_bytes(taken["images"]), pngs)  # 40 images: a whole block, and a part of one
    assert np.allclose(taken["log_likelihood_bits"], rows["log_likelihood_bits"], atol=1e-3)


def test_the_readme_s_snippet_works_on_an_export(exported):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    snippet = re.search(r"((?:^    .*\n|^\n)*^    .*tf\.saved_model\.load(?:.*\n)(?:^    .*\n|^\n)*)", readme, re.M)[1]
    snippet = "\n".join(line[4:] for line in snippet.splitlines())
    about = json.loads((exported / "adni-model" / "about.json").read_text())
    said = elsewhere(exported, snippet + "\nprint(images.shape, codes.shape)")
    assert said.strip() == f"{(4, *about['frame'], 1)} {(4, *about['code_grid'])}"


def test_an_export_holds_every_weight_once(finished_run, exported):
    weights = tf.train.load_checkpoint(str(exported / "adni-model" / "variables" / "variables"))
    sizes = [np.prod(shape) for shape in weights.get_variable_to_shape_map().values() if shape]
    assert sum(sizes) <= sum(model.count_params() for model in utils.load_models(finished_run))


def test_an_export_is_never_overwritten(finished_run, exported):
    with pytest.raises(UserError, match="left alone"):
        predict.main(["--run", str(finished_run), "--export", str(exported / "adni-model")])


# ---- the model card ---------------------------------------------------------------------------


def test_the_model_card_says_what_was_asked_and_keeps_what_the_user_wrote(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    card = (run / "MODEL_CARD.md").read_text()
    for section in ("Data", "Splits", "Training", "Intended use", "Misuse", "Measured", "Memorisation", "Limits"):
        assert f"\n## {section}\n" in card
    for word in ("ask ADNI", "hosted", "diagnosis", "CLAIM", "10.1148/ryai.240300", "TO BE FILLED IN",
                 "not yet measured", "test people so far: 0", "repeat visits"):
        assert word in card
    slices = pd.read_csv(run / "slices.csv")
    for (split, label), group in slices.groupby(["split", "label"]):
        assert f"| {split} | {label} | {group['subject'].nunique()} | {len(group)} |" in card
    (run / "MODEL_CARD.md").write_text(card.replace("TO BE FILLED IN", "CC0, from OpenNeuro"))
    evaluate.note_look(run, "evaluate.py --split test")
    report.write_model_card(run, utils.read_config(run) | {"simulated": False})
    card = (run / "MODEL_CARD.md").read_text()
    assert "CC0, from OpenNeuro" in card and "TO BE FILLED IN" not in card and "test people so far: 1" in card


# ---- the reader study -------------------------------------------------------------------------


def study_images(page):
    """The pictures of a page, in order."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [base64.b64decode(text) for text in found]


@pytest.fixture(scope="module")
def study(finished_run, tmp_path_factory):
    """A reader study of four real slices and four samples of the tiny run."""
    folder = tmp_path_factory.mktemp("study") / "study"
    predict.main(["--run", str(finished_run), "--reader-study", "4", "--seed", "2", "--out", str(folder)])
    return folder


def test_the_key_of_a_reader_study_is_true(finished_run, slices_folder, study):
    config = utils.read_config(finished_run)
    key = pd.read_csv(study / "key.csv")
    assert list(key["image"]) == list(range(1, 9)) and (key["truth"] == "real").sum() == 4
    real = key[key["truth"] == "real"]
    slices = pd.read_csv(finished_run / "slices.csv").set_index("path")
    assert set(slices.loc[real["source"], "split"]) == {"validation"}
    assert slices.loc[real["source"], "subject"].nunique() == 2  # as many people as there are
    conditions = [sorted(zip(part["label"], part["position"], strict=True)) for _, part in key.groupby("truth")]
    assert conditions[0] == conditions[1]
    shown = study_images((study / "study.html").read_text())
    assert len(set(shown)) == 8
    for image, row in zip(shown, key.itertuples(), strict=True):
        with Image.open(io.BytesIO(image)) as png:
            assert png.mode == "L" and not png.info and png.size == tuple(config["crop_box"][:1:-1])
            if row.truth == "real":
                frame = dataset.load_images(slices_folder, [row.source], tuple(config["frame"])).images
                expected = dataset.crop(frame, dataset.Box(*config["crop_box"]))[0, ..., 0]
                assert np.array_equal(np.asarray(png), expected)


def test_the_page_of_a_reader_study_tells_nothing_and_loads_nothing(finished_run, study):
    page = (study / "study.html").read_text()
    words = re.sub(r'base64,[^"]+', "", page)
    slices = pd.read_csv(finished_run / "slices.csv")
    for secret in {*slices["subject"].astype(str), *slices["path"], *slices["label"], "validation", "seed", "http",
                   str(finished_run), finished_run.name}:
        assert not re.search(rf"\b{re.escape(secret)}\b", words), secret
    assert report.MARK in html.unescape(page)
    order = pd.read_csv(study / "key.csv")["truth"]
    assert order.nunique() == 2 and not order.is_monotonic_increasing and not order.is_monotonic_decreasing


def test_a_reader_study_repeats_by_its_seed_and_the_mark_can_be_left_out(finished_run, study, tmp_path):
    for name, flags in (("same", ["--seed", "2", "--cc0"]), ("other", ["--seed", "3"])):
        predict.main(["--run", str(finished_run), "--reader-study", "4", "--out", str(tmp_path / name), *flags])
    pages = {name: (folder / "study.html").read_text() for name, folder in
             {"first": study, "same": tmp_path / "same", "other": tmp_path / "other"}.items()}
    assert study_images(pages["first"]) == study_images(pages["same"]) != study_images(pages["other"])
    assert "<p class=mark>" in pages["other"] and "<p class=mark>" not in pages["same"]
    assert (study / "key.csv").read_text() == (tmp_path / "same" / "key.csv").read_text()


@pytest.mark.skipif(not BROWSER, reason="there is no browser")
def test_a_reader_study_in_a_headless_browser(study, tmp_path):
    """Every third answer by the keyboard, the others by the buttons; what would be saved is scored."""
    robot = """<pre id=saved></pre><script>
    URL.createObjectURL = file => { file.text().then(text => { part("saved").textContent = text; }); return "#"; };
    part("reader").value = "A, B<i>";
    part("begin").click();
    for (let i = 0; i < images.length; i++) {
      if (document.querySelectorAll("img.now").length !== 1 || !images[i].classList.contains("now")) break;
      if (i % 3) document.querySelector("[data-answer=real]").click();
      else dispatchEvent(new KeyboardEvent("keydown", {key: "M"}));
    }</script>"""
    page = tmp_path / "study.html"
    page.write_text((study / "study.html").read_text().replace("</body>", robot + "</body>"))
    dumped = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}",
         "--virtual-time-budget=3000", "--dump-dom", f"file://{page}"],
        check=True, capture_output=True, text=True, timeout=60).stdout
    saved = re.search("<pre id=\"saved\">(.*?)</pre>", dumped, re.S)[1]
    answers = pd.read_csv(io.StringIO(saved))
    assert list(answers.columns) == ["study", "reader", "image", "answer", "seconds"]
    assert list(answers["answer"]) == ["real" if i % 3 else "sampled" for i in range(8)]
    assert set(answers["reader"]) == {"A Bi"} and set(answers["study"]) == set(pd.read_csv(study / "key.csv")["study"])


def write_answers(folder, right, wrong, study="abc"):
    """A key of so many images, and answers of which the first are right."""
    count = right + wrong
    truth = ["real", "sampled"] * count
    key = pd.DataFrame({"study": "abc", "image": range(1, count + 2), "truth": truth[: count + 1]})
    answers = pd.DataFrame({"study": study, "reader": "X", "image": range(1, count + 1),
                            "answer": truth[:right] + truth[right + 1: count + 1], "seconds": 1.0})
    key.to_csv(folder / "key.csv", index=False)
    answers.to_csv(folder / "answers.csv", index=False)
    return folder / "answers.csv"


def test_the_score_of_a_reader_has_wilson_s_interval(tmp_path, capsys):
    predict.main(["--reader-score", str(write_answers(tmp_path, 31, 9))])
    said = capsys.readouterr().out
    n, p, z = 40, 31 / 40, 1.959963984540054  # Wilson 1927, by hand
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    assert f"31 of 40, 0.775 [{low:.3f}, {high:.3f}]" in said
    assert "real slices told: 16 of 20" in said and "sampled slices told: 15 of 20" in said
    assert "1 of 41 images were not answered" in said


@pytest.mark.parametrize(("spoil", "sentence"), [
    (lambda folder: (folder / "key.csv").unlink(), "key.csv cannot be read"),
    (lambda folder: (folder / "answers.csv").unlink(), "answers.csv cannot be read"),
    (lambda folder: (folder / "answers.csv").write_text("a,b\n1,2\n"), "cannot be read as a table of study"),
    (lambda folder: (folder / "answers.csv").write_text("study,image,answer\n"), "another study"),
    (lambda folder: write_answers(folder, 2, 2, study="xyz"), "another study"),
    (lambda folder: (folder / "answers.csv").write_text("study,image,answer\nabc,1,maybe\n"), "as the page wrote"),
    (lambda folder: (folder / "answers.csv").write_text("study,image,answer\nabc,99,real\n"), "as the page wrote"),
    (lambda folder: (folder / "answers.csv").write_text("study,image,answer\nabc,one,real\n"), "cannot be read"),
    (lambda folder: (folder / "answers.csv").write_text("study,image,answer\n" + 2 * "abc,1,real\n"), "twice"),
])
def test_answers_that_cannot_be_scored_are_one_sentence(spoil, sentence, tmp_path):
    write_answers(tmp_path, 2, 2)
    spoil(tmp_path)
    with pytest.raises(UserError, match=sentence) as error:
        predict.main(["--reader-score", str(tmp_path / "answers.csv")])
    assert "\n" not in str(error.value)


# ---- the poster and TensorBoard ----------------------------------------------------------------


def test_mosaic_and_what_codes_stand_for():
    images = np.arange(6).reshape(6, 1, 1) * np.ones((6, 2, 3), int)
    assert report.mosaic(images[:5], 3, 1).tolist() == [
        3 * [0] + [0] + 3 * [1] + [0] + 3 * [2] + [0], 3 * [0] + [0] + 3 * [1] + [0] + 3 * [2] + [0], 12 * [0],
        3 * [3] + [0] + 3 * [4] + 5 * [0], 3 * [3] + [0] + 3 * [4] + 5 * [0], 12 * [0]]
    codes = np.array([[[0, 2]], [[2, 2]]])  # (2, 1, 2) of cells of 2x2 pixels
    image = np.kron(codes, np.ones((2, 2)))[..., None] / 2
    patches = report.code_patches(codes, image, 4)
    assert patches.shape == (4, 4, 4) and not patches[[1, 3]].any()
    assert patches[0].tolist() == [4 * [0], [0, 0, 0, 1], [0, 0, 0, 1], 4 * [0]]
    assert np.allclose(patches[2][1], [1 / 3, 1, 1, 1 / 3])


def test_the_poster_completes_slices_by_keeping_half_of_the_codes(finished_run, tmp_path):
    _, prior = utils.load_models(finished_run)
    h, w = prior.grid
    codes = np.random.default_rng(0).integers(0, prior.num_codes, (2, h, w)).astype(np.int32)
    reader = SimpleNamespace(decode=lambda drawn: np.asarray(drawn)[..., None] / 255)  # shows the codes themselves
    drawn = predict.complete_top(reader, prior, 0, codes, {"label": np.array([1, 2], np.int32),
                                                           "position": np.array([1, 2], np.int32)})[..., 0]
    assert drawn.shape == (2, predict.COLUMNS - 2, h, w)
    assert (drawn[:, :, : h // 2] == codes[:, None, : h // 2]).all()
    assert len(np.unique(drawn[0].reshape(len(drawn[0]), -1), axis=0)) > 1


def test_the_poster(finished_run, tmp_path, capsys):
    predict.main(["--run", str(finished_run), "--gallery", "--out", str(tmp_path / "a")])
    assert "instead" not in capsys.readouterr().out
    predict.main(["--run", str(finished_run), "--gallery", "--out", str(tmp_path / "b"), "--data", "nowhere"])
    assert "nowhere is not there" in (said := capsys.readouterr().out) and "samples are completed instead" in said
    first, second = (np.asarray(Image.open(tmp_path / name / "gallery.png").convert("L")) for name in "ab")
    assert first.shape[1] > 1000 and first.std() > 5 and second.std() > 5 and not np.array_equal(first, second)


def test_tensorboard_is_given_scalars_images_histograms_and_the_codebook(finished_run):
    folder = finished_run / "tensorboard"
    for stage, tags in (("vqvae", {"loss", "validation_ssim", "originals", "reconstructions",
                                   "uses of a code over the mean"}),
                        ("prior", {"loss", "validation_loss", "samples"})):
        events = EventAccumulator(str(folder / stage)).Reload()
        assert tags <= set(events.Tags()["tensors"]), stage
        assert {len(events.Tensors(tag)) for tag in tags} == {2}, stage  # the smoke preset evaluates twice
    config = text_format.Parse((folder / "vqvae" / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    codebook = np.loadtxt(folder / "vqvae" / embedding.tensor_path, delimiter="\t")
    vqvae, _ = utils.load_models(finished_run)
    assert np.allclose(codebook, keras.ops.convert_to_numpy(vqvae.quantizer.codebook).T, rtol=1e-5)
    uses = pd.read_csv(folder / "vqvae" / embedding.metadata_path, sep="\t")
    assert list(uses.columns) == ["code", "cells"] and list(uses["code"]) == list(range(32)) and uses["cells"].sum() > 0
    with Image.open(folder / "vqvae" / embedding.sprite.image_path) as sprite:
        assert sprite.size == (6 * 16, 6 * 16) and list(embedding.sprite.single_image_dim) == [16, 16]


def test_tensorboard_serves_the_codebook(finished_run):
    server = program.TensorBoard()
    server.configure([None, "--logdir", str(finished_run.parent), "--port", "0"])
    url, run = server.launch(), f"{finished_run.name}/tensorboard/vqvae"

    def get(path):
        with urllib.request.urlopen(f"{url}data/plugin/projector/{path}", timeout=30) as answer:
            return answer.read()

    for _ in range(100):
        if run in json.loads(get("runs")):
            break
        time.sleep(0.2)
    (embedding,) = json.loads(get(f"info?run={run}"))["embeddings"]
    assert embedding["tensorShape"] == [32, 8]
    assert len(get(f"tensor?run={run}&name={embedding['tensorName']}")) == 32 * 8 * 4  # float32
    assert get(f"metadata?run={run}&name={embedding['tensorName']}").startswith(b"code\tcells\n")
    assert get(f"sprite_image?run={run}&name={embedding['tensorName']}").startswith(b"\x89PNG")


# ---- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "sentence"), [
    (["--format", "gif"], "--format"),
    (["--pixel-size", "0"], "--pixel-size"),
    (["--export", "x", "--gallery"], "not allowed with"),
    (["--reconstruct", "x", "--reader-study", "2"], "not allowed with"),
    (["--reader-study", "0"], "--reader-study"),
    (["--reader-study", "9"], "8 usable slices of validation people, not 9"),
    (["--reader-study", "2", "--data", "nowhere"], "nowhere is not there: say where with --data"),
])
def test_mistakes_leave_nothing(flags, sentence, finished_run, tmp_path):
    with pytest.raises(UserError, match=sentence) as error:
        predict.main(["--run", str(finished_run), "--out", str(tmp_path / "out"), *flags])
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_an_export_goes_where_it_says(finished_run, tmp_path):
    with pytest.raises(UserError, match="leave out --out"):
        predict.main(["--run", str(finished_run), "--export", str(tmp_path / "x"), "--out", str(tmp_path / "y")])


# ---- what the scripts say ---------------------------------------------------------------------


def test_quiet_says_nothing_and_verbose_names_files_and_where_an_error_arose(slices_folder, tmp_path):
    words = ["dataset.py", "--data", str(slices_folder)]
    quiet = run_script(*words, "--quiet", "--out", "a.png", cwd=tmp_path)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    verbose = run_script(*words, "--verbose", "--out", "b.png", cwd=tmp_path)
    assert verbose.returncode == 0 and re.search(r"\d s  wrote b.png\n", verbose.stderr) and "people" in verbose.stdout
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    wrong = run_script("predict.py", "--run", "nothing", "--verbose", cwd=tmp_path)
    assert wrong.returncode == 2 and "Traceback" in wrong.stderr
    assert wrong.stderr.splitlines()[-1].startswith("predict.py: error: there is no run")
    both = run_script("predict.py", "--quiet", "--verbose", cwd=tmp_path)
    assert both.returncode == 2 and both.stderr.count("\n") == 1


def test_colour_is_for_terminals(monkeypatch):
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert utils.coloured("error:", utils.RED, terminal) == "\033[31merror:\033[0m"
    assert utils.coloured("error:", utils.RED, io.StringIO()) == "error:"
    monkeypatch.setenv("NO_COLOR", "1")
    assert utils.coloured("error:", utils.RED, terminal) == "error:"


@pytest.mark.parametrize("script", [train, predict, evaluate, dataset])
def test_every_flag_is_explained_with_its_default(script, monkeypatch):
    class Seen(Exception):
        pass

    parsers = []

    def see(parser, argv):
        parsers.append(parser)
        raise Seen

    monkeypatch.setattr(utils.Parser, "parse_args", see)
    with pytest.raises(Seen):
        script.main([])
    (parser,) = parsers
    assert parser.epilog.startswith("example")
    for action in parser._actions:
        assert action.help, action.option_strings
        if action.default not in (None, False) and action.nargs != 0:
            assert "default" in action.help, action.option_strings
        if action.type is not None and action.nargs is None and action.choices is None:
            assert action.metavar, action.option_strings  # not a shouted copy of the flag


def test_no_path_of_this_machine_is_in_an_export(exported):
    files = [path for path in (exported / "adni-model").rglob("*") if path.is_file()]
    assert len(files) >= 5
    for path in files:
        for folder in (ROOT, Path(sys.prefix), exported):
            assert os.fsencode(folder) not in path.read_bytes(), path
