"""Every command of README.md and docs/ is run in smoke form, or named here with the reason why not: none can rot."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_volumes import phantom, save

import dataset
import evaluate
import predict
import train
from utils import UserError

ROOT = Path(__file__).parents[1]
DOCS = ("data", "using", "evaluation", "results", "settings", "speed", "reliability", "scale")
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in DOCS))
SCRIPTS = {"train.py": train, "predict.py": predict, "evaluate.py": evaluate, "dataset.py": dataset}
ROOMS = ("slices", "models", "training", "sampling", "metrics", "report")
PROGRAMS = {"python", "python3", "pip", "pytest", "git", "tensorboard", "srun", "for"}
SMOKE = "--preset smoke"
FEW = "--num-samples 20 --quick"

# command: what is appended to it; the last of two equal flags counts
RUN = {
    "python predict.py --run ReducedResults/brains": "--num-images 2",
    "python train.py --run demo": SMOKE,
    "python predict.py --run demo": "",
    "python dataset.py check --data AD_NC": "",
    "python train.py --data AD_NC --run adni --dry-run": SMOKE,
    "python train.py --data AD_NC --run adni": SMOKE,
    "python predict.py --run adni --num-images 64 --label AD --position 10": "",
    "python evaluate.py --run adni": FEW,
    "python dataset.py cut --volumes BIDS --out cut-slices": "",
    "python train.py --resume adni": "",
    "python predict.py people --run adni --num-people 8 --label AD": "--num-people 2",
    "python predict.py people --run adni --complete SCAN": "--num-people 1 --candidates 2",
    "python predict.py people --run adni --complete SCAN --positions 0 5 10": "--num-people 1 --candidates 1",
    "python predict.py cohort --run adni --num-people 400 --out sampled": "--num-people 6",
    "python dataset.py check --data sampled": "",
    "python predict.py reconstruct AD_NC/test --run adni": "",
    "python predict.py complete SLICE.png --run adni --keep top": "--num-images 2",
    "python predict.py score SLICES --run adni --heal": "",
    "python predict.py vary label --run adni": "",
    "python predict.py gallery --run adni": "",
    "python evaluate.py compare adni other": "",
    "python evaluate.py folder IMAGES --real AD_NC/test --train AD_NC/train": "",
    "python dataset.py cut --volumes ADNI --out cut-slices --metadata adni.csv": "--out more-slices",
    "python train.py --data cut-slices --run mine": SMOKE,
    "python predict.py --run adni --num-images 100 --format nifti --pixel-size 1": "",
    "python predict.py complete SLICE.png --run adni --keep left --paste --num-images 8": "--num-images 2",
    "python predict.py vary position --run adni": "--num-images 2",
    "python predict.py vary temperature --run adni": "--num-images 2",
    "python predict.py interpolate --run adni": "--num-images 3",
    "python predict.py export adni-model --run adni": "",
    "python predict.py reader-study 20 --run adni --out study": "",
    "python predict.py reader-score study/answers.csv": "",
    "python evaluate.py --run adni --metadata adni.csv --shareable": FEW,
    "python train.py --data BRAINS --run brains": SMOKE,
    "python evaluate.py --run brains --split test": FEW,
    "python predict.py --run brains --num-images 32": "",
    "python predict.py people --run brains --num-people 3": "",
    "python predict.py reconstruct BRAINS/test --run brains": "",
    "python evaluate.py --run demo --split test": FEW,
    "python predict.py vary label --run demo --position 12": "--num-images 2",
    "python train.py --data BRAINS --dry-run": SMOKE,
    "python train.py --data AD_NC --run adni --distribute mirrored --batch-size 32": f"{SMOKE} --run mirrored",
    "python train.py --data ../AD_NC --run adni --preset large --batch-size 32": f"{SMOKE} --data AD_NC --run colab",
    "python predict.py --run adni --num-images 64": "",
}

# in a process of its own, as a user does; the others share one, for TensorFlow takes seconds to start
ALONE = {
    "python predict.py --run demo",
    "python train.py --data AD_NC --run adni --distribute mirrored --batch-size 32",
}

# what must come before a command that the pages leave to the reader
BEFORE = {
    "python predict.py --run ReducedResults/brains": (
        f"python train.py --run first {SMOKE}",
        f"python evaluate.py --run first {FEW}",
        "python experiments/ship.py --run first --out ReducedResults/brains",
    ),
    "python evaluate.py compare adni other": (
        "python train.py --vqvae adni --run other --prior-steps 5",
        f"python evaluate.py --run other {FEW}",
    ),
    "python evaluate.py folder IMAGES --real AD_NC/test --train AD_NC/train": (
        "python predict.py --run adni --num-images 80 --out IMAGES",
    ),
}

# what a run of forty steps is rightly refused: a part of the sentence
REFUSED = {"python evaluate.py --run adni --metadata adni.csv --shareable": "no shareable report is written"}

NOT_RUN = {
    "python3 -m venv .venv": ".ci/run does that, and takes minutes",
    "pip install -r requirements.txt": ".ci/run does that, and takes minutes",
    "pip install streamlit==1.67.0": ".ci/run does that, from .ci/requirements.txt",
    "python predict.py explore --run adni": "it never ends; test_explore_page.py plays with it",
    "pytest": "this is it",
    "pytest -m slow": "this is it",
    "tensorboard --logdir runs": "it never ends; test_sharing.py starts it",
    "srun --nodes 4 --ntasks-per-node 1 python train.py --data AD_NC --run adni --distribute multiworker "
    "--batch-size 128": "needs Slurm; test_distribute.py joins workers",
    'for i in 0 1; do TF_CONFIG=\'{"cluster": {"worker": ["localhost:2222", "localhost:2223"]}, "task": '
    '{"type": "worker", "index": \'$i\'}}\' python train.py --preset smoke --run two --distribute multiworker & '
    "done; wait": "two ports of its own; test_distribute.py joins workers",
    "git clone REPOSITORY brains": "this is a clone",
    "python train.py --run adni --stage refiner": "its run has one; test_resume.py trains one by itself",
    "python experiments/draws.py --run brains --draw no_sharpen sharpened refined plain temperature=0.9 top_p=0.95 "
    "guidance=1.5 guidance=2": "minutes, on real slices",
    "python dataset.py demo --people 400 --out demo400 --image-size 120 128": "minutes; test_cohort.py makes people",
    "python experiments/calibration.py --data demo400 --out ReducedResults/calibration.json": "an hour; "
    "test_verdicts.py repeats it in small",
    'pip install -q -r requirements.txt "tensorflow[and-cuda]==2.21.0"': "gigabytes for a GPU that is not here",
    "pip install torch": "gigabytes, and optional",
    "python experiments/study.py --data BRAINS": "hours: it trains every variant for minutes",
    "python train.py --data BRAINS --run told40 --vqvae brains --prior-told 0.4 --prior-dropout 0": "half an hour",
    "python evaluate.py --run told40": "minutes, of a run that is not here",
    'python experiments/study.py --data BRAINS --seconds 300 --only "other slices told" levels dropout': "an hour",
    "python experiments/study.py --sheet ReducedResults/pictures/study.png": "it draws what an hour has trained",
    "python dataset.py demo --people 1200 --out demo1200 --image-size 120 128": "a quarter of an hour: 24,000 slices",
    "python experiments/benchmark.py --run brains --rounds 2 --only machine stage1 stage2 sampling profile startup "
    "growth data": "half an hour, for its numbers alone",
    "python experiments/benchmark.py --run brains --only quality "
    "--codebooks gradient": "half an hour, for its numbers alone",
    "python experiments/gpu.py": "it is for a GPU; test_gpu.py tries it in small",
    "python experiments/gpu.py --tiny": "a minute or two; test_gpu.py does that",
    'python experiments/timings.py \'["our_pipeline_alone", {"run": "brains", "stage": "vqvae"}]\'': "for its number "
    "alone, on the slices of that run",
    'python experiments/timings.py \'["our_pipeline_alone", {"run": "brains", "stage": "prior"}]\'': "likewise",
    "python experiments/reproduce.py --only text": "it writes these pages; test_reproduce.py checks them",
    "python experiments/peer.py --run brains --codebook ema --out ReducedResults/peer.csv": "half an hour: it trains "
    "the peer",
    "python train.py --data BRAINS --run brains_short --stage vqvae --vqvae-steps 1297 "
    "--precision mixed_bfloat16": "six minutes: it trains for the row of equal steps",
    "python experiments/peer.py --run brains_short --equal steps --split test --codebook ema "
    "--state runs/brains/peer_ema.npz --out ReducedResults/peer.csv": "it needs the peer of the command before",
    "python experiments/cheats.py --run brains --out ReducedResults/cheats.csv": "20 minutes, on real slices",
    "python experiments/lesions.py --run brains --heal --out ReducedResults/lesions.csv": "a quarter of an hour, on "
    "real slices",
    "python experiments/faults.py --kills 30 --out ReducedResults/reliability.json": "test_slow.py kills in its place",
    "python experiments/workers.py --workers 2 4 "
    "--out ReducedResults/reliability.json": "test_distribute.py does its work",
}


def texts():
    """README.md and the pages of docs/, each with its text."""
    return {page: page.read_text(encoding="utf-8") for page in PAGES}


def commands():
    """The commands of the pages in order: the lines of their ```sh blocks, and `python x.py …` within a line.

    ``&&`` splits a line; notes, ``!`` and ``.venv/bin/`` are left out.
    """
    found = []
    for block, within in re.findall(
        r"^```sh\n(.*?)^```|`(python [\w/]+\.py [^`]+)`", "\n".join(texts().values()), re.MULTILINE | re.DOTALL
    ):
        for line in (block or within).splitlines():
            parts = re.sub(" +# .*", "", line.removeprefix("!").replace(".venv/bin/", "")).split(" && ")
            found += [part for part in parts if part.split()[0] in PROGRAMS]
    return list(dict.fromkeys(found))


def test_every_command_is_run_or_named_with_a_reason():
    found = commands()
    assert len(found) > 20
    assert set(found) == set(RUN) | set(NOT_RUN), "list what is new in RUN or NOT_RUN, and drop what is gone"
    assert not set(RUN) & set(NOT_RUN) and set(BEFORE) | set(REFUSED) | ALONE <= set(RUN) and all(NOT_RUN.values())


def test_no_command_writes_where_the_code_lies():
    out = [Path(command.split(" --out ")[1].split()[0]) for command in commands() if " --out " in command]
    assert Path("sampled") in out
    assert not {*ROOMS, "docs", "tests", "experiments"} & {path.parts[0] for path in out}


# ---- what the pages say exists ------------------------------------------------------------------


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_every_link_and_picture_exists(page):
    links = re.findall(r"\]\((?!https?:)([^)]*)\)", page.read_text(encoding="utf-8"))
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file() and target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_the_front_page_names_every_file_of_the_rooms():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    rooms = {path.name for room in ROOMS for path in (ROOT / room).glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"\w+\.py", tree)) == rooms | {path.name for path in ROOT.glob("*.py")}


def flags(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))


def helps(capsys):
    """{(script, command): its flags}, from what ``--help`` prints; the command that needs no word is also ""."""
    found = {}
    for name, script in SCRIPTS.items():
        for word in ("", *(command.name for command in getattr(script, "COMMANDS", ()))):
            with pytest.raises(SystemExit):
                script.main([word, "--help"] if word else ["--help"])
            found[name, word] = flags(capsys.readouterr().out)
    return found


def test_the_pages_name_the_flags_that_exist_and_all_of_them(capsys):
    known = helps(capsys)
    for command in commands():
        script, *words = shlex.split(command.removeprefix("python "))
        if script in SCRIPTS:
            word = words[0] if (script, words[0]) in known else ""
            assert flags(command) <= known[script, word], command
    experiments = (path.read_text(encoding="utf-8") for path in (ROOT / "experiments").glob("*.py"))
    others = {"--logdir", "--nodes", "--ntasks-per-node"}  # of tensorboard and srun
    named = flags("\n".join(texts().values()))
    every = set().union(*known.values())
    assert named - others <= every.union(*map(flags, experiments))
    assert every - {"--help"} <= named


# ---- what the pages do --------------------------------------------------------------------------


def test_the_python_lines_run_and_give_what_predict_writes(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run, tmp_path / "runs" / "demo")
    block = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)[1]
    names = {}
    exec(block.replace("position=12", "position=2"), names)  # the slices of the tests have four positions
    images, codes, bits = names["samples"].images, names["codes"], names["bits"]
    assert images.shape == names["images"].shape == (16, *names["run"].frame) and images.dtype == np.uint8
    assert codes.shape == bits.shape == (16, *names["run"].code_grid) and (bits >= 0).all()

    predict.main(["--run", "demo", "--num-images", "16", "--label", "AD", "--position", "2", "--out", "out"])
    rows = pd.read_csv(tmp_path / "out" / "samples.csv")
    written = np.stack([np.asarray(Image.open(tmp_path / "out" / name)) for name in rows["file"]])
    assert np.array_equal(written, images)
    names["samples"].table.to_csv(tmp_path / "table.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv")[list(rows)], rows, check_exact=True)


def alone(command, refusal=None):
    """Run a command as a user does, with the scripts of this repository, in a process of its own."""
    script, *words = shlex.split(command.removeprefix("python "))
    done = subprocess.run([sys.executable, str(ROOT / script), *words], capture_output=True, text=True)
    assert done.returncode == (2 if refusal else 0) and (refusal or "") in done.stderr, f"{command}\n{done.stderr}"
    assert (done.stdout or script not in SCRIPTS) and "Traceback" not in done.stderr, command


def here(command, capsys, refusal=None):
    """Run a command in this process."""
    script, *words = shlex.split(command.removeprefix("python "))
    main = importlib.import_module(script.removesuffix(".py").replace("/", ".")).main
    try:
        if refusal:
            with pytest.raises(UserError, match=re.escape(refusal)):
                main(words)
        else:
            main(words)
    except BaseException as error:
        error.add_note(command)
        raise
    assert capsys.readouterr().out, command


def prepare(work):
    """Slices and scans where the pages have them, and the metadata that they name."""
    dataset.main(["demo", "--people", "16", "--out", "AD_NC", "--image-size", "60", "64"])
    (work / "BRAINS").symlink_to("AD_NC")
    (work / "data").mkdir()
    (work / "data" / "demo-100-120x128-seed0").symlink_to("demo-20-60x64-seed0")  # what the preset smoke will make
    (work / "SLICES").mkdir()
    for i, path in enumerate(sorted((work / "AD_NC" / "test").rglob("*.png"))[:2]):
        for copy in (work / "SLICE.png", work / "SLICES" / f"9_{i}.png"):
            shutil.copy2(path, copy)
    (work / "SCAN").mkdir()
    for path in np.array(sorted((work / "AD_NC" / "test").rglob("*.png"))[:20])[[0, 5, 19]]:  # of one person's
        shutil.copy2(path, work / "SCAN")
    people = sorted({path.name.partition("_")[0] for path in (work / "AD_NC").rglob("*.png")})
    pd.DataFrame(
        {
            "Image Data ID": [f"I{person}" for person in people],
            "Subject": [f"{i:03d}_S_{i:04d}" for i in range(len(people))],
            "Group": ["AD", "CN"] * (len(people) // 2),
            "Sex": ["F", "M"] * (len(people) // 2),
            "Age": range(60, 60 + len(people)),
        }
    ).to_csv(work / "adni.csv", index=False)
    for i, person in enumerate(people[:8]):
        head = nibabel.Nifti1Image(phantom().get_fdata(dtype="float32") * (i + 1), np.diag([3.0, 3, 3, 1]))
        for path in (f"BIDS/sub-{i}/anat/sub-{i}_T1w.nii.gz", f"ADNI/{i:03d}_S_{i:04d}/MPRAGE/I{person}/head.nii"):
            save(work / path, head)


def answer(study):
    """Answers to a reader study, all of them "real"."""
    key = pd.read_csv(study / "key.csv")
    key[["study", "image"]].assign(reader="X", answer="real", seconds=1).to_csv(study / "answers.csv", index=False)


@pytest.mark.slow
def test_the_commands_of_the_pages(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    for command in commands():
        if command not in RUN:
            continue
        for before in BEFORE.get(command, ()):
            here(before, capsys)
        if "reader-score" in command:
            answer(tmp_path / "study")
        whole = f"{command} {RUN[command]}"
        if command in ALONE:
            alone(whole, REFUSED.get(command))
        else:
            here(whole, capsys, REFUSED.get(command))
    assert len(list((tmp_path / "runs" / "demo" / "samples").glob("*/sheet.png"))) == 2
    assert (tmp_path / "contact_sheet.png").is_file()
