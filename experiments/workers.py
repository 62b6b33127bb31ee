"""Many workers train what one trains: losses of 1, 2 and 4 processes on this machine side by side; run by hand.

    python experiments/workers.py --workers 2 4 --out ReducedResults/reliability.json

Smoke runs of the demo cohort in float32, 50 steps of each stage, the same batches of 8 whatever the number of
workers. Then one of two workers is killed in mid-training: what the other says, and whether all resume.

The learning rate is a tenth of the usual. At the usual one training is chaotic: sums in another order, which
differ in the eighth digit, differ in the third after 30 steps, so that no equality could be told from a mistake.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.results import REPOSITORY, replace_sections
from training.checkpoints import checkpoints
from utils import Parser, number, run_script


def steps_flags(steps):
    """Flags of train.py for so many steps of each stage, at a learning rate at which losses can be compared."""
    return ["--vqvae-steps", str(steps), "--prior-steps", str(steps), "--learning-rate", "0.0002"]


def free_ports(count):
    """Ports of this machine that nobody listens to."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_workers(folder, count, *flags):
    """``count`` processes of train.py that know of each other by TF_CONFIG."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(count)]}
    return [
        subprocess.Popen(
            [sys.executable, str(REPOSITORY / "train.py"), "--distribute", "multiworker", *flags],
            cwd=folder,
            text=True,
            env=os.environ
            | {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for index in range(count)
    ]


def finish(processes, seconds=600):
    """Wait for all; [(status, stdout, stderr)]."""
    said = [process.communicate(timeout=seconds) for process in processes]
    return [(process.returncode, *words) for process, words in zip(processes, said, strict=True)]


def largest_difference(run, other, stage):
    """Of the training and validation losses in two histories of a stage."""
    import pandas as pd

    columns = ["loss", "validation_loss"]
    first, second = (pd.read_csv(folder / f"history_{stage}.csv")[columns].to_numpy() for folder in (run, other))
    return float(abs(first - second).max())  # not a number where one is; an error where the lengths differ


def compare(folder, count, flags):
    """Train both stages with ``count`` workers, the second on the codes of runs/1; by stage the largest difference
    of any loss from those of the one process of runs/1."""
    for name, given in (("vqvae", flags), ("prior", ["--vqvae", "runs/1"])):
        stage = ["--stage", "vqvae"] if name == "vqvae" else []
        for status, _, errors in finish(start_workers(folder, count, "--run", f"runs/{count}-{name}", *given, *stage)):
            if status:
                raise SystemExit(f"a worker of {count} failed with status {status}: {errors[-2000:]}")
    return {
        name: largest_difference(folder / "runs/1", folder / f"runs/{count}-{name}", name)
        for name in ("vqvae", "prior")
    }


def lose_a_worker(folder, lost, flags, step=20):
    """Kill number ``lost`` of two workers soon after a step of stage 1; what the other says, and how resuming ends."""
    run = folder / "runs" / f"lost-{lost}"
    workers = start_workers(folder, 2, "--run", str(run), "--checkpoint-minutes", "0", *flags)
    while not any(int(path.name.split("-")[1]) >= step for path in checkpoints(run / "checkpoints", "vqvae")):
        if workers[0].poll() is not None:
            raise SystemExit(f"the chief ended too early: {workers[0].communicate()[1][-2000:]}")
        time.sleep(0.05)
    workers[lost].send_signal(signal.SIGKILL)
    killed = time.perf_counter()
    status, _, errors = finish(workers)[1 - lost]
    seconds = round(time.perf_counter() - killed, 1)
    resumed = finish(start_workers(folder, 2, "--resume", str(run), "--checkpoint-minutes", "5"))
    return {
        "status": status,
        "seconds_until_it_ended": seconds,
        "sentence": (errors.strip().splitlines() or [""])[-1].replace(f"{folder}/", ""),
        "resumed": [status for status, _, _ in resumed],
        "went_on": next((line for line in resumed[0][1].splitlines() if "going on after step" in line), "anew"),
        "finished": json.loads((run / "config.json").read_text())["finished"],
    }


def main(argv):
    """Compare, and lose workers; see ``python experiments/workers.py --help``."""
    parser = Parser(prog="experiments/workers.py", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--workers",
        nargs="+",
        type=number(int, 2),
        default=[2, 4],
        metavar="N",
        help="numbers of processes (default 2 4)",
    )
    parser.add_argument("--steps", type=number(int, 4), default=50, metavar="N", help="of each stage (default 50)")
    parser.add_argument("--out", required=True, metavar="JSON", help="its section workers is replaced")
    flags = parser.parse_args(argv)
    smoke = ["--preset", "smoke", *steps_flags(flags.steps)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subprocess.run(
            [sys.executable, str(REPOSITORY / "train.py"), "--run", "runs/1", *smoke], cwd=folder, check=True
        )
        report = {
            f"largest difference of losses, {count} workers": compare(folder, count, smoke) for count in flags.workers
        }
        report |= {
            f"killed number {lost} of two": lose_a_worker(folder, lost, smoke, flags.steps * 2 // 5) for lost in (1, 0)
        }
    replace_sections(flags.out, {"workers": report})


if __name__ == "__main__":
    run_script(main)
