"""Ship a finished run: put what it takes to use it into a folder that goes with the code; run by hand.

    python experiments/ship.py --run brains

``predict.py``, ``evaluate.py`` and ``Run`` open that folder as it is. Models are copied byte by byte, so samples stay
the same. Slices, caches, checkpoints, logs and samples are left behind, and so is every path of this machine. Only runs
whose slices are simulated or in the public domain are shipped; the model card says where they are from. What else lies
in the folder stays, and looks at test people that are noted there are kept.
"""

import re
import shlex
import shutil
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.results import read_rows
from utils import Parser, UserError, load_json, run_script, save_json, shell, whole_file, write_csv

MEASURED = ("sharpening.json", "equalising.json", "coherence.json")  # after a stage, and used in drawing
COPIED = ("*.keras", *MEASURED, "slices.csv", "people.csv", "history_*.csv")
MOST = 12_000_000  # bytes of weights that go with the code, of all runs together
PUBLIC_DOMAIN = ("cc0", "pddl", "public domain")
CREDIT = ("License", "Name", "Authors", "DatasetDOI", "HowToAcknowledge")  # as BIDS calls them
DATA = "BRAINS"  # what the pages call a folder of real slices
TEMPLATE = (
    "simulated: warps of the ICBM152 template (V. Fonov et al., Unbiased average age-appropriate atlases for pediatric "
    "studies, NeuroImage 54, 2011), as nilearn ships it"
)


def ship(run, out=None, data=None):
    """Put what it takes to use a finished run into a folder.

    Args:
        run: its name under runs/, or a path.
        out: the folder, which may hold an earlier one (default: ReducedResults/<its name>).
        data: the folder of the run's slices, where they have moved; it tells their licence.

    Returns:
        The folder, a Path.

    Raises:
        UserError: the run is not finished or not evaluated, its slices are not known to be free, or there would be too
            many bytes of weights beside each other.
    """
    from report.model_card import write_model_card
    from training.folder import find_beside, open_run
    from training.plan import is_finished

    folder, config = open_run(run)
    out = Path(out or Path("ReducedResults", folder.name))
    if not is_finished(config):
        raise UserError(f"the run {folder} is not finished: go on with {shell('python', 'train.py', '--resume', run)}")
    if not (folder / "metrics.json").is_file():
        evaluate = shell("python", "evaluate.py", "--run", run, "--split", "test")
        raise UserError(f"the run {folder} is not evaluated, and its card could not say how good it is: {evaluate}")
    if out.resolve() == folder.resolve():
        raise UserError(f"{folder} is the folder that it would be shipped to: choose another with --out")
    licence = TEMPLATE if config["simulated"] else licence_of(Path(data or find_beside(folder, config["data"])))
    check_size(folder, out)

    out.mkdir(parents=True, exist_ok=True)
    copy_files(folder, out)
    metrics = load_json(folder / "metrics.json")
    metrics |= {"command": without_paths(metrics["command"])}
    save_json(out / "metrics.json", metrics)
    add_looks(folder, out)
    write_model_card(out, config, metrics, licence=licence)
    save_json(out / "config.json", neutral(config))
    return out


def licence_of(data):
    """What the dataset_description.json beside slices says of their licence and of whom to credit: a sentence.

    Raises:
        UserError: there is none, or they are not in the public domain.
    """
    for path in sorted(data.glob("dataset_description*.json")):
        said = load_json(path)
        if str(said.get("License")).lower().startswith(PUBLIC_DOMAIN):
            parts = (said.get(name) for name in CREDIT)
            texts = (", ".join(part) if isinstance(part, list) else str(part) for part in parts if part)
            return ". ".join(" ".join(text.split()) for text in texts)
    raise UserError(
        f"no dataset_description.json in {data} says that these slices are in the public domain, and weights of others "
        "are not shipped: say with --data where they are"
    )


def check_size(folder, out):
    """Raise a UserError where there would be too many bytes of weights in the folders beside ``out``."""
    others = [path for path in out.parent.glob("*/*.keras") if path.parent != out]
    size = sum(path.stat().st_size for path in [*others, *folder.glob("*.keras")])
    if size > MOST:
        raise UserError(
            f"{out.parent} would hold {size / 1e6:.1f} MB of weights, over {MOST / 1e6:.0f} MB: ship a smaller run, or "
            "remove another; runs that are trained now take half of what earlier ones do"
        )


def copy_files(folder, out):
    """Copy what COPIED names, and remove what an earlier run of the same place had beyond that."""
    wanted = {path.name for pattern in COPIED for path in folder.glob(pattern)}
    for name in sorted(wanted):
        with whole_file(out / name) as temporary:
            shutil.copyfile(folder / name, temporary)
    for old in {path for pattern in COPIED for path in out.glob(pattern)}:
        if old.name not in wanted:
            old.unlink()


def add_looks(folder, out):
    """Append the looks at test people of a run to those that are noted in ``out``: they are known by their time."""
    looks, known = read_rows(out / "test_looks.csv"), Counter()
    noted = Counter(look["date"] for look in looks)
    for look in read_rows(folder / "test_looks.csv"):
        known[look["date"]] += 1
        if known[look["date"]] > noted[look["date"]]:
            looks.append(look | {"command": without_paths(look["command"])})
    if looks:
        write_csv(out / "test_looks.csv", looks)


def neutral(config):
    """The config without paths of this machine; ``data`` is where the pages have it, or where train.py makes it."""
    place = Path("data", Path(config["data"]).name).as_posix() if config["simulated"] else DATA
    return config | {"data": place, "metadata": None, "cache": None, "source": None, "shipped": True}


def without_paths(command):
    """A command whose paths from / or .. are the names at their ends: --data ../shared/brains -> --data brains."""
    words = shlex.split(command)
    return shlex.join(re.sub(r"^(--[\w-]+=)?(/|\.\./)(.*/)?(?=[^/]+/?$)", r"\1", word) for word in words)


def main(argv):
    """Ship a run; see ``python experiments/ship.py --help``."""
    parser = Parser(prog="experiments/ship.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True, metavar="NAME", help="a finished and evaluated run")
    parser.add_argument("--data", metavar="DIR", help="where the run's slices are now (default: where they were)")
    parser.add_argument("--out", metavar="DIR", help="where to (default: ReducedResults/<its name>)")
    out = ship(**vars(parser.parse_args(argv)))
    print(f"{out}: {sum(path.stat().st_size for path in out.glob('*.keras')) / 1e6:.1f} MB of weights")
    print(f"next: {shell('python', 'predict.py', '--run', out)}")


if __name__ == "__main__":
    run_script(main)
