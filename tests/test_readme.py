"""Every command of the README is run in smoke form, or named here with the reason why not, so that none can rot."""

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
from test_volumes import phantom, save

ROOT = Path(__file__).parents[1]
PROGRAMS = {"python", "python3", "pip", "pytest", "git", "tensorboard", "srun", "for", "while"}
SMOKE = "--preset smoke"
FEW = "--num-samples 20 --quick"

# command: what is appended to it; the last of two equal flags counts
RUN = {
    "python train.py --run demo": SMOKE,
    "python predict.py --run demo": "",
    "python dataset.py --data AD_NC": "",
    "python dataset.py --volumes BIDS --out slices": "",
    "python dataset.py --volumes ADNI --out slices --metadata adni.csv": "--out more-slices",
    "python train.py --data slices --run mine": SMOKE,
    "python train.py --data AD_NC --run adni --dry-run": SMOKE,
    "python train.py --data AD_NC --run adni": SMOKE,
    "python predict.py --run adni --num-images 64 --label AD --position 10": "",
    "python predict.py --run adni --reconstruct AD_NC/test": "",
    "python evaluate.py --run adni": FEW,
    "python evaluate.py --run adni --metadata adni.csv --shareable": FEW,
    "python evaluate.py --compare adni other": "",
    "python evaluate.py --real AD_NC/test --train AD_NC/train --generated IMAGES": "",
    "python predict.py --run adni --complete SLICE.png --keep top": "--num-images 2",
    "python predict.py --run adni --complete SLICE.png --keep left --paste --num-images 8": "--num-images 2",
    "python predict.py --run adni --score SLICES --heal": "",
    "python predict.py --run adni --compare-labels": "",
    "python predict.py --run adni --sweep-positions": "--num-images 2",
    "python predict.py --run adni --temperature-sweep": "--num-images 2",
    "python predict.py --run adni --interpolate": "--num-images 3",
    "python predict.py --run adni --gallery": "",
    "python predict.py --run adni --num-images 100 --format nifti --pixel-size 1": "",
    "python predict.py --run adni --export adni-model": "",
    "python predict.py --run adni --reader-study 20 --out study": "",
    "python predict.py --reader-score study/answers.csv": "",
    "python train.py --resume adni": "",
    "python train.py --data AD_NC --run adni --distribute mirrored --batch-size 32": f"{SMOKE} --run mirrored",
    "python train.py --data ../AD_NC --run adni --preset large --batch-size 32": f"{SMOKE} --data AD_NC --run colab",
    "python predict.py --run adni --num-images 64": "",
    "python train.py --data ../shared/data/brains --run brains": SMOKE,
    "python evaluate.py --run brains --split test": FEW,
    "python predict.py --run brains --num-images 32": "",
    "python predict.py --run brains --reconstruct ../shared/data/brains/test": "",
    "python evaluate.py --run demo --split test": FEW,
    "python predict.py --run demo --num-images 32": "",
    "python predict.py --run demo --label AD --position 12 --num-images 8": "",
    "python predict.py --run demo --label NC --position 12 --num-images 8": "",
    "python predict.py --run demo --reconstruct data/demo-100-120x128-seed0/test":
        "--reconstruct data/demo-20-60x64-seed0/test",
}

# what must come before a command that the README leaves to the reader
BEFORE = {
    "python evaluate.py --compare adni other": (
        "python train.py --vqvae adni --run other --prior-steps 5", f"python evaluate.py --run other {FEW}"),
    "python evaluate.py --real AD_NC/test --train AD_NC/train --generated IMAGES": (
        "python predict.py --run adni --num-images 80 --out IMAGES",),
}

# what a run of forty steps is rightly refused: a part of the sentence
REFUSED = {
    "python evaluate.py --run adni --metadata adni.csv --shareable": "no shareable report is written",
}

NOT_RUN = {
    "python3 -m venv .venv": ".ci/run does that, and takes minutes",
    "pip install -r requirements.txt": ".ci/run does that, and takes minutes",
    "pytest": "this is it",
    "tensorboard --logdir runs": "it never ends; test_sharing.py starts it",
    "srun --nodes 4 --ntasks-per-node 1 python train.py --data AD_NC --run adni --distribute multiworker "
    "--batch-size 128": "needs Slurm; test_distribute.py joins workers",
    "for i in 0 1; do TF_CONFIG='{\"cluster\": {\"worker\": [\"localhost:2222\", \"localhost:2223\"]}, \"task\": "
    "{\"type\": \"worker\", \"index\": '$i'}}' python train.py --preset smoke --run two --distribute multiworker & "
    "done; wait": "two ports of its own; test_distribute.py joins workers",
    "git clone REPOSITORY brains": "this is a clone",
    'pip install -q -r requirements.txt "tensorflow[and-cuda]==2.21.0"': "gigabytes for a GPU that is not here",
    "pip install torch": "gigabytes, and optional",
    "python tests/study.py --data ../shared/data/brains": "hours: it trains every variant for minutes",
    "python dataset.py --demo demo1200 --people 1200 --image-size 120 128": "a quarter of an hour: 24,000 slices",
    "python train.py --data demo1200 --preset demo --run demo800 --augment 0 --prior-dropout 0 --prior-steps 4000":
        "it trains for half an hour, on that cohort",
    "python evaluate.py --run demo800 --split test --quick": "it needs the run of the command before",
    "python tests/benchmark.py --run brains --rounds 2 --only machine stage1 stage2 sampling profile startup growth "
    "data": "half an hour, for its numbers alone",
    "python tests/benchmark.py --run brains --only quality --codebooks gradient": "half an hour, for its numbers alone",
    "python tests/peer.py --run brains --codebook ema --out ReducedResults/peer.csv --figure ReducedResults/peer.png":
        "half an hour: it trains the peer",
    "python train.py --data ../shared/data/brains --run brains_1297 --stage vqvae --vqvae-steps 1297 "
    "--precision mixed_bfloat16": "six minutes: it trains for the row of equal steps",
    "python tests/peer.py --run brains_1297 --equal steps --split test --codebook ema "
    "--state runs/brains/peer_ema.npz --out ReducedResults/peer.csv": "it needs the peer of the command before",
    "python tests/lesions.py --run brains --heal --out ReducedResults/lesions.csv --examples lesions":
        "a quarter of an hour, on real slices",
    "python tests/faults.py --kills 30 --out ReducedResults/reliability.json": "test_slow.py kills in its place",
    "python tests/workers.py --workers 2 4 --out ReducedResults/reliability.json": "test_distribute.py does its work",
}


def commands():
    """The commands in the README's indented blocks, in order: ``&&`` apart, without notes, ``!`` and ``.venv/bin/``."""
    found, previous, in_block = [], "", False
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines():
        in_block = line.startswith("    ") and (in_block or not previous)  # else it goes on with an item of a list
        if in_block:
            parts = re.sub(" +# .*", "", line.strip().removeprefix("!").replace(".venv/bin/", "")).split(" && ")
            found += [part for part in parts if part.split()[0] in PROGRAMS]
        previous = line
    return found


def test_every_command_of_the_readme_is_run_or_named_with_a_reason():
    found = commands()
    assert len(found) > 20
    assert set(found) == set(RUN) | set(NOT_RUN), "list what is new in RUN or NOT_RUN, and drop what is gone"
    assert not set(RUN) & set(NOT_RUN) and set(BEFORE) | set(REFUSED) <= set(RUN) and all(NOT_RUN.values())


def run(folder, command, refusal=None):
    """Run a command of the README as a user does, with the scripts of this repository."""
    script, *flags = shlex.split(command.removeprefix("python "))
    done = subprocess.run([sys.executable, str(ROOT / script), *flags], cwd=folder, capture_output=True, text=True)
    assert done.returncode == (2 if refusal else 0) and (refusal or "") in done.stderr, f"{command}\n{done.stderr}"
    assert done.stdout and "Traceback" not in done.stderr, command


def prepare(folder):
    """Slices and scans where the README has them, the metadata that it names, and a folder to work in."""
    work = folder / "work"
    work.mkdir()
    run(work, "python dataset.py --demo AD_NC --people 16 --image-size 60 64")
    (folder / "shared" / "data").mkdir(parents=True)
    (folder / "shared" / "data" / "brains").symlink_to(work / "AD_NC")
    (work / "SLICES").mkdir()
    for i, path in enumerate(sorted((work / "AD_NC" / "test").rglob("*.png"))[:2]):
        for copy in (work / "SLICE.png", work / "SLICES" / f"9_{i}.png"):
            shutil.copy2(path, copy)
    people = sorted({path.name.partition("_")[0] for path in (work / "AD_NC").rglob("*.png")})
    pd.DataFrame({"Image Data ID": [f"I{person}" for person in people],
                  "Subject": [f"{i:03d}_S_{i:04d}" for i in range(len(people))],
                  "Group": ["AD", "CN"] * (len(people) // 2),
                  "Sex": ["F", "M"] * (len(people) // 2), "Age": range(60, 60 + len(people))}
                 ).to_csv(work / "adni.csv", index=False)
    for i, person in enumerate(people[:8]):
        head = nibabel.Nifti1Image(phantom().get_fdata(dtype="float32") * (i + 1), np.diag([3.0, 3, 3, 1]))
        for path in (f"BIDS/sub-{i}/anat/sub-{i}_T1w.nii.gz", f"ADNI/{i:03d}_S_{i:04d}/MPRAGE/I{person}/head.nii"):
            save(work / path, head)
    return work


def answer(study):
    """Answers to a reader study, all of them "real"."""
    key = pd.read_csv(study / "key.csv")
    key[["study", "image"]].assign(reader="X", answer="real", seconds=1).to_csv(study / "answers.csv", index=False)


@pytest.mark.slow
def test_the_commands_of_the_readme(tmp_path):
    work, done = prepare(tmp_path), set()
    for command in commands():
        if command not in RUN or command in done:
            continue
        for before in BEFORE.get(command, ()):
            run(work, before)
        if "--reader-score" in command:
            answer(work / "study")
        run(work, f"{command} {RUN[command]}", REFUSED.get(command))
        done.add(command)
    assert done == set(RUN)
    assert len(list((work / "runs" / "demo" / "samples").glob("*/sheet.png"))) == 5
