"""Measure a finished run on held-out people: reconstruction, code use, likelihood.

Choosing between models is done on validation people (the default). Every look at test people is appended
to the run's test_looks.csv, so that their number can be stated.
"""

import csv
import datetime
from pathlib import Path

from utils import (
    Parser,
    UserError,
    git_commit,
    load_models,
    open_run,
    read_slices,
    run_script,
    save_json,
    start_tensorflow,
)


def parse_flags(argv):
    """The flags as a namespace."""
    parser = Parser(description=__doc__.split("\n\n")[0],
                    epilog="example: python evaluate.py --run brains --split test")
    parser.add_argument("--run", metavar="NAME", help="name under runs/, or a path (default: the newest finished run)")
    parser.add_argument("--split", choices=("validation", "test"), default="validation", help="(default validation)")
    parser.add_argument("--data", metavar="DIR", help="where the run's slices are now (default: where they were)")
    return parser.parse_args(argv)


def load_part(root, slices, config):
    """Some slices of a run as ``metrics.measure`` wants them: images, their rows and their conditions."""
    import dataset
    from metrics import condition_ids

    if not Path(root).is_dir():
        raise UserError(f"the run's data {root} is not there: say where with --data")
    loaded = dataset.load_images(root, slices["path"].tolist(), tuple(config["frame"]))
    slices = slices[loaded.usable].reset_index(drop=True)
    return {"images": loaded.images, "slices": slices, "columns": condition_ids(slices, config["labels"])}


def main(argv):
    """Measure a run and write its metrics.json; see ``python evaluate.py --help``."""
    flags = parse_flags(argv)
    folder, config = open_run(flags.run)
    slices, root = read_slices(folder), flags.data or config["data"]
    held_out = slices[slices["split"] == flags.split]
    if held_out["subject"].nunique() < 2:
        raise UserError(f"the run {folder} has fewer than two {flags.split} people: there is nothing to measure")
    start_tensorflow()
    import dataset
    from metrics import UNIGRAM_SLICES, evenly, measure, print_measurement

    training = slices.iloc[evenly((slices["split"] == "train").to_numpy().nonzero()[0], UNIGRAM_SLICES)]
    metrics = measure(load_models(folder), load_part(root, training, config), load_part(root, held_out, config),
                              dataset.Box(*config["crop_box"]), flags.split)
    if flags.split == "test":
        note_look(folder)
    save_json(folder / "metrics.json", metrics)
    print_measurement(metrics)
    print(folder / "metrics.json")


def note_look(folder):
    """Append this look at the test people to test_looks.csv."""
    path = folder / "test_looks.csv"
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        looks = csv.writer(file)
        if new:
            looks.writerow(["date", "commit", "command"])
        looks.writerow([f"{datetime.datetime.now():%Y-%m-%d %H:%M}", git_commit(), "evaluate.py --split test"])


if __name__ == "__main__":
    run_script(main)
