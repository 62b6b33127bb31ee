"""How fast is it, beside what a user would pick instead, and beside the machine itself? Run by hand.

    python experiments/benchmark.py --run brains

--run is a finished run of the default preset: its config says which nets are timed, its slices feed them. Every
number comes from a process of its own with as many threads as there are cores; ours and theirs take turns, and of
each the fastest step of all turns counts. PyTorch's rows need PyTorch (pip install torch), the rest does not.

Into --out go benchmark_<cpu>.csv (what, against, ours, theirs, ratio, target, met), benchmark_<cpu>_growth.csv
(seconds and memory over image area, batch, grid area and K), benchmark_<cpu>_profile.csv (where a step's time goes,
by tf.profiler) and benchmark_<cpu>.png. Targets are those of a CPU without AMX unless it has AMX. Rows already in
a table are replaced by new ones.
"""

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.benchmark_parts import PARTS
from experiments.results import REDUCED, REPOSITORY, read_rows, write_rows
from slices.machine import cpu_flags, processor
from training.folder import open_run
from utils import Parser, number, run_script

COLUMNS = ("what", "against", "ours", "theirs", "ratio", "target", "met")
GROWTH = ("what", "by", "size", "seconds", "memory")
PROFILE = ("what", "precision", "operation", "share")


class Bench:
    """Runs tasks of timings.py in processes of their own and remembers what they measured.

    Attributes:
        folder: str, of the run; config: its config; precision: that it was trained in.
        torch, bf16, amx: whether PyTorch is installed, and what the processor has.
        minutes, codebooks: of the time to quality.
        growth, profiles: rows of these tables, to be added to.
    """

    def __init__(self, run, rounds=3, minutes=20, codebooks=("gradient", "ema")):
        folder, self.config = open_run(run)
        self.folder, self.precision = str(folder.absolute()), self.config["precision_resolved"]
        self.rounds, self.minutes, self.codebooks = rounds, minutes, codebooks
        self.torch = importlib.util.find_spec("torch") is not None
        self.bf16, self.amx = "bf16" in processor(), "amx_bf16" in cpu_flags()
        self.growth, self.profiles, self.seen = [], [], {}

    def run(self, task, **options):
        """What a task returned, with the peak memory of its process in megabytes."""
        cores = str(len(os.sched_getaffinity(0)))
        environment = os.environ | {"OMP_NUM_THREADS": cores, "TF_NUM_INTRAOP_THREADS": cores}
        command = [sys.executable, REPOSITORY / "experiments" / "timings.py", json.dumps([task, options])]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"{task} {options} failed:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def in_turns(self, **tasks):
        """name → the best of what each task, (name, options), measured over the rounds; the tasks take turns."""
        measured = {name: [] for name in tasks}
        for _ in range(self.rounds):
            for name, (task, options) in tasks.items():
                measured[name].append(self.run(task, **options))
        better = {"seconds": min, "waiting": statistics.median, "memory": statistics.median}
        return {
            name: {key: better.get(key, max)(result[key] for result in results) for key in results[0]}
            for name, results in measured.items()
        }

    def peak(self, precision):
        """The convolution peak in operations/s, measured once a sitting for each precision."""
        precision = "bfloat16" if precision == "mixed_bfloat16" else precision
        if precision not in self.seen:
            self.seen[precision] = self.run("peak", precision=precision)
        return self.seen[precision]


# ---- the tables ---------------------------------------------------------------------------------


def replace_rows(path, rows, columns, key):
    """Put rows into a CSV, in the place of older ones that are the same in the columns of ``key``."""
    found = {tuple(str(line[name]) for name in key) for line in rows}
    old = [line for line in read_rows(path) if tuple(line[name] for name in key) not in found]
    write_rows(
        path,
        [
            {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in line.items()}
            for line in [*old, *rows]
        ],
        columns,
    )


def table_path(stem, suffix):
    """benchmark_<cpu> -> benchmark_<cpu><suffix>."""
    return stem.with_name(stem.name + suffix)


def draw(stem, path):
    """Draw the ratios of the table beside their targets, and the curves of growth, into a PNG."""
    import pandas as pd
    from matplotlib.figure import Figure

    table, growth = (pd.read_csv(table_path(stem, suffix)) for suffix in (".csv", "_growth.csv"))
    shown = table["against"].str.contains("PyTorch|Keras|pass|peak,|peer") & ~table["what"].str.contains("memory")
    table = table[shown]
    figure = Figure(figsize=(13, 0.4 * len(table) + 1.5), layout="constrained")
    bars, curves = figure.subplots(1, 2, width_ratios=(3, 2))
    places = range(len(table))[::-1]
    bars.barh(places, table["ratio"], color=["#b55" if met is False else "#478" for met in table["met"]])
    bars.plot(table["target"], places, "k|", markersize=14, label="target")
    bars.set(xscale="log", xlabel="times better than what it is compared with", yticks=places)
    bars.set_yticklabels([f"{line.what}\nagainst {line.against}" for line in table.itertuples()], fontsize=6)
    bars.axvline(1, color="0.6", linewidth=0.8)
    bars.legend(fontsize=7)
    for (what, by), points in growth.groupby(["what", "by"]):
        curves.plot(points["size"], points["seconds"], "o-", markersize=3, label=f"{what} by {by}")
    curves.set(xscale="log", yscale="log", xlabel="size", ylabel="seconds")
    curves.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.06))
    figure.savefig(path, dpi=110, metadata={"Software": None})


# ---- the script ---------------------------------------------------------------------------------


def main(argv):
    """Measure; see ``python experiments/benchmark.py --help``."""
    parser = Parser(prog="experiments/benchmark.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True, help="a finished run of the default preset")
    parser.add_argument("--out", default=str(REDUCED), metavar="DIR", help="where the tables are (default %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="some parts of the table")
    parser.add_argument(
        "--rounds", type=number(int, 1), default=3, metavar="N", help="turns that ours and theirs take (default 3)"
    )
    parser.add_argument(
        "--minutes",
        type=number(float, 0),
        default=20,
        help="of the peer's training, for the time to its quality (default 20)",
    )
    parser.add_argument(
        "--codebooks",
        nargs="+",
        choices=("gradient", "ema"),
        default=["gradient", "ema"],
        help="of that peer: as published, and kept alive by our moving averages (default both)",
    )
    flags = parser.parse_args(argv)
    bench = Bench(flags.run, flags.rounds, flags.minutes, flags.codebooks)
    stem = Path(flags.out) / f"benchmark_{'-'.join(re.findall(r'[a-z0-9_]+', processor().lower()))}"
    for part in flags.only:
        rows = []
        for found in PARTS[part](bench):
            rows.append(found)
            print(
                " | ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in found.values()),
                flush=True,
            )
        for suffix, lines, columns, key in (
            (".csv", rows, COLUMNS, COLUMNS[:2]),
            ("_growth.csv", bench.growth, GROWTH, GROWTH[:3]),
            ("_profile.csv", bench.profiles, PROFILE, PROFILE[:3]),
        ):
            if lines:
                replace_rows(table_path(stem, suffix), lines, columns, key)
    if bench.growth:
        draw(stem, stem.with_suffix(".png"))


if __name__ == "__main__":
    run_script(main)
