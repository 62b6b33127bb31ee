"""What lets others look at a run: formats, the export, the model card, the poster, TensorBoard, the help."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from itertools import chain
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
import predict
import train
import utils
from report.codebook import code_patches, mosaic
from report.model_card import write_model_card
from sampling.export import window
from sampling.gallery import COMPLETIONS, complete_upper_halves
from sampling.run import Run
from slices.frame import Box, crop, paste, to_bytes
from slices.images import save_nifti
from slices.index import condition_ids
from utils import UserError, random_generator


@pytest.fixture
def run(finished_run):
    return Run(finished_run)


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
    save_nifti(tmp_path / "a.nii.gz", image, 2.0)
    nifti = nibabel.load(tmp_path / "a.nii.gz")
    assert nibabel.aff2axcodes(nifti.affine) == ("R", "A", "S") and nifti.header.get_zooms() == (2.0, 2.0, 1.0)
    place = nifti.affine @ [*np.argwhere(np.asarray(nifti.dataobj))[0], 1]
    assert place.tolist() == [2.0 * (8 - 4.5), 2.0 * (2.5 - 1), 0.0, 1.0]  # mm to the right and to the front of centre
    save_nifti(tmp_path / "b.nii.gz", image, 2.0)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


# ---- the export -------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(2, 3, 4, 5), (-2, -1, 12, 11), (0, 0, 8, 9), (5, -3, 6, 20)])
def test_a_window_crops_and_pastes_as_the_data_set_does(box):
    images = np.random.default_rng(0).random((2, 8, 9, 1), np.float32)
    box = Box(*box)
    crops = crop(images, box)
    assert np.array_equal(window(images, *box), crops)
    assert np.array_equal(window(crops, -box.top, -box.left, 8, 9), paste(crops, box, (8, 9)))


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
    predict.main(["export", str(folder / "adni-model"), "--run", str(finished_run)])
    return folder


def snippet_of_the_docs():
    """The Python lines of docs/using.md that load an export."""
    text = (ROOT / "docs" / "using.md").read_text(encoding="utf-8")
    return next(block for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "saved_model" in block)


@pytest.fixture(scope="module")
def elsewhere(exported, finished_run):
    """What Python prints in the folder of the export, where this repository is not to be found."""
    run, given = Run(finished_run), np.random.default_rng(0)
    block = json.loads((exported / "adni-model" / "about.json").read_text())["block"]
    samples = run.sample(40, seed=7, temperature=0.9, block=block)  # a whole block, and a part of one
    label = samples.table["label"].map({name: i + 1 for i, name in enumerate(run.labels)}).to_numpy(np.int32)
    uniforms = np.stack(
        [random_generator(7, "codes", i).random(run.prior.uniforms_shape, np.float32) for i in range(40)]
    )
    np.savez(
        exported / "given.npz",
        uniforms=uniforms,
        label=label,
        position=samples.table["position"].to_numpy(np.int32) + 1,
        images=given.random((3, *run.frame, 1), np.float32),
    )
    code = FOREIGN + snippet_of_the_docs() + "\nprint(images.shape, codes.shape)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, ROOT, ROOT / "tests"],
        cwd=exported,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(
        printed=done.stdout,
        taken=np.load(exported / "taken.npz"),
        samples=samples,
        images=np.load(exported / "given.npz")["images"],
    )


def test_the_export_equals_the_run_in_a_process_without_this_code(run, elsewhere):
    taken = elsewhere.taken
    assert np.array_equal(taken["encoded"], run.vqvae.encode(crop(elsewhere.images, run.box)))
    decoded = paste(np.asarray(run.vqvae.decode(taken["codes"])), run.box, run.frame)
    assert np.allclose(taken["decoded"], decoded, atol=1e-5)
    assert np.array_equal(to_bytes(taken["images"]), elsewhere.samples.images)
    assert not np.array_equal(taken["images"], taken["decoded"])  # what is drawn is sharpened
    assert np.allclose(taken["log_likelihood_bits"], elsewhere.samples.table["log_likelihood_bits"], atol=1e-3)


def test_the_snippet_of_the_docs_works_on_an_export(run, elsewhere):
    assert elsewhere.printed.strip() == f"{(4, *run.frame, 1)} {(4, *run.code_grid)}"


def test_an_export_holds_every_weight_once(run, exported):
    weights = tf.train.load_checkpoint(str(exported / "adni-model" / "variables" / "variables"))
    sizes = [np.prod(shape) for shape in weights.get_variable_to_shape_map().values() if shape]
    assert sum(sizes) <= sum(model.count_params() for model in (*run.models, run.refiner))


def test_an_export_is_never_overwritten(finished_run, exported):
    with pytest.raises(UserError, match="left alone"):
        predict.main(["export", str(exported / "adni-model"), "--run", str(finished_run)])


# ---- the model card ---------------------------------------------------------------------------


def test_the_model_card_says_what_was_asked_and_keeps_what_the_user_wrote(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    card = (run / "MODEL_CARD.md").read_text()
    for section in ("Data", "Splits", "Training", "Intended use", "Misuse", "Measured", "Memorisation", "Limits"):
        assert f"\n## {section}\n" in card
    for word in (
        "ask ADNI",
        "hosted",
        "diagnosis",
        "CLAIM",
        "10.1148/ryai.240300",
        "TO BE FILLED IN",
        "not yet measured",
        "test people so far: 0",
        "repeat visits",
    ):
        assert word in card
    slices = pd.read_csv(run / "slices.csv")
    for (split, label), group in slices.groupby(["split", "label"]):
        assert f"| {split} | {label} | {group['subject'].nunique()} | {len(group)} |" in card
    (run / "MODEL_CARD.md").write_text(card.replace("TO BE FILLED IN", "CC0, from OpenNeuro"))
    evaluate.note_look(run, "evaluate.py --split test")
    write_model_card(run, Run(run).config | {"simulated": False})
    card = (run / "MODEL_CARD.md").read_text()
    assert "CC0, from OpenNeuro" in card and "TO BE FILLED IN" not in card and "test people so far: 1" in card
    assert "draws the slices of one head" in card and "not one head" not in card
    write_model_card(run, Run(run).config | {"simulated": False, "prior_slices_below": 0})
    card = (run / "MODEL_CARD.md").read_text()
    assert "draws the slices of one head" not in card and "positions of one seed are not one head" in card


# ---- the poster and TensorBoard ----------------------------------------------------------------


def test_mosaic_and_what_codes_stand_for():
    images = np.arange(6).reshape(6, 1, 1) * np.ones((6, 2, 3), int)
    assert mosaic(images[:5], 3, 1).tolist() == [
        3 * [0] + [0] + 3 * [1] + [0] + 3 * [2] + [0],
        3 * [0] + [0] + 3 * [1] + [0] + 3 * [2] + [0],
        12 * [0],
        3 * [3] + [0] + 3 * [4] + 5 * [0],
        3 * [3] + [0] + 3 * [4] + 5 * [0],
        12 * [0],
    ]
    codes = np.array([[[0, 2]], [[2, 2]]])  # (2, 1, 2) of cells of 2x2 pixels
    image = np.kron(codes, np.ones((2, 2)))[..., None] / 2
    patches = code_patches(codes, image, 4)
    assert patches.shape == (4, 4, 4) and not patches[[1, 3]].any()
    assert patches[0].tolist() == [4 * [0], [0, 0, 0, 1], [0, 0, 0, 1], 4 * [0]]
    assert np.allclose(patches[2][1], [1 / 3, 1, 1, 1 / 3])


def test_the_poster_completes_slices_by_keeping_half_of_the_codes(run):
    h, w = run.code_grid
    codes = np.random.default_rng(0).integers(0, 32, (2, h, w)).astype(np.int32)
    reader = SimpleNamespace(  # shows the codes themselves
        prior=run.prior, decode_crops=lambda drawn, what: drawn, sharpened=lambda images: images
    )
    columns = {"label": np.array([1, 2], np.int32), "position": np.array([1, 2], np.int32)}
    drawn = complete_upper_halves(reader, codes, columns, 0, {})[..., 0]
    assert drawn.shape == (2, COMPLETIONS, h, w)
    assert (drawn[:, :, : h // 2] == codes[:, None, : h // 2]).all()
    assert len(np.unique(drawn[0].reshape(len(drawn[0]), -1), axis=0)) > 1


def test_the_poster(finished_run, tmp_path, capsys):
    predict.main(["gallery", "--run", str(finished_run), "--out", str(tmp_path / "a")])
    assert "instead" not in capsys.readouterr().out
    predict.main(["gallery", "--run", str(finished_run), "--out", str(tmp_path / "b"), "--data", "nowhere"])
    assert "the data nowhere of" in (said := capsys.readouterr().out) and "samples are completed instead" in said
    first, second = (np.asarray(Image.open(tmp_path / name / "gallery.png").convert("L")) for name in "ab")
    assert first.shape[1] > 1000 and first.std() > 5 and second.std() > 5 and not np.array_equal(first, second)


def test_tensorboard_is_given_scalars_images_histograms_and_the_codebook(finished_run):
    folder = finished_run / "tensorboard"
    for stage, tags in (
        ("vqvae", {"loss", "validation_ssim", "originals", "reconstructions", "uses of a code over the mean"}),
        ("prior", {"loss", "validation_loss", "samples"}),
    ):
        events = EventAccumulator(str(folder / stage)).Reload()
        assert tags <= set(events.Tags()["tensors"]), stage
        assert {len(events.Tensors(tag)) for tag in tags} == {2}, stage  # the smoke preset evaluates twice
    config = text_format.Parse((folder / "vqvae" / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    codebook = np.loadtxt(folder / "vqvae" / embedding.tensor_path, delimiter="\t")
    assert np.allclose(
        codebook, keras.ops.convert_to_numpy(Run(finished_run).vqvae.quantizer.codebook).T, rtol=1e-3, atol=1e-6
    )
    uses = pd.read_csv(folder / "vqvae" / embedding.metadata_path, sep="\t")
    assert list(uses.columns) == ["code", "cells"] and list(uses["code"]) == list(range(32)) and uses["cells"].sum() > 0
    with Image.open(folder / "vqvae" / embedding.sprite.image_path) as sprite:
        assert sprite.size == (6 * 8, 6 * 8) and list(embedding.sprite.single_image_dim) == [8, 8]


def test_tensorboard_is_given_sharpened_samples(finished_run):
    run = Run(finished_run)
    validation = run.slices[run.slices["split"] == "validation"][:8]
    ids = condition_ids(validation, run.labels)
    uniforms = np.random.default_rng(run.config["seed"]).random((len(validation), *run.prior.uniforms_shape), "float32")
    codes, _ = run.prior.sample(uniforms, ids["label"], ids["position"])
    best = pd.read_csv(finished_run / "history_prior.csv")["validation_loss"].argmin()  # whose weights the run has
    samples = EventAccumulator(str(finished_run / "tensorboard" / "prior")).Reload().Tensors("samples")[best]
    shown = np.asarray(Image.open(io.BytesIO(samples.tensor_proto.string_val[2])))  # after width and height
    decoded = run.decode_crops(np.asarray(codes))
    sharp, plain = (
        np.abs(shown - images[0].astype(int)).max() for images in (run.sharpening.sharpen(decoded), decoded)
    )
    assert sharp <= 1 < plain


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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--format", "gif"], "--format"),
        (["--pixel-size", "0"], "--pixel-size"),
        (["export", "x"], "--out is no flag of python predict.py export"),
        (["gallery", "--shard", "1/2"], "--shard is no flag of python predict.py gallery"),
        (["reconstruct", "x", "--heal"], "--heal is no flag of python predict.py reconstruct, but of"),
    ],
)
def test_mistakes_leave_nothing(words, sentence, finished_run, tmp_path):
    with pytest.raises(UserError, match=sentence) as error:
        predict.main([*words, "--run", str(finished_run), "--out", str(tmp_path / "out")])
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


# ---- what the scripts say ---------------------------------------------------------------------


def test_quiet_says_nothing_and_verbose_names_files_and_where_an_error_arose(slices_folder, tmp_path):
    words = ["dataset.py", "check", "--data", str(slices_folder)]
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


def parsers_of(script):
    """The parsers of a script: one, or one of each of its commands."""
    commands = [[command.name] for command in getattr(script, "COMMANDS", ())] or [[]]
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils.Parser, "parse_args", lambda parser, argv: seen.append(parser) or sys.exit(0))
        for words in commands:
            with pytest.raises(SystemExit):
                script.main(words)
    return seen


@pytest.mark.parametrize(
    "parser", chain(*map(parsers_of, (train, predict, evaluate, dataset))), ids=lambda parser: parser.prog
)
def test_every_flag_is_explained_with_its_default(parser):
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
