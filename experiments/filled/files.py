"""The files in ReducedResults/ that texts are filled in from. Each is read once."""

from functools import lru_cache

from experiments.results import REDUCED, read_rows
from utils import UserError, load_json


class Files:
    """What lies in ReducedResults/, or in another folder like it.

    Args:
        folder: Path.
    """

    def __init__(self, folder=REDUCED):
        self.folder = folder
        self.json = lru_cache(lambda name: load_json(folder / name))
        self.rows = lru_cache(lambda name: self._rows(name))

    def _rows(self, name):
        """The rows of a CSV, a list of dicts of str.

        Raises:
            UserError: it is not there, or is empty.
        """
        rows = read_rows(self.folder / name)
        if not rows:
            raise UserError(f"{self.folder / name} is not there, or has no row: the pages are filled in from it")
        return rows

    def metrics(self, run):
        """metrics.json of a run, "brains" or "demo"."""
        return self.json(f"{run}/metrics.json")

    def config(self, run):
        """config.json of a run."""
        return self.json(f"{run}/config.json")

    def minutes(self, run):
        """The minutes that each stage of a run was trained for: dict of stage → float, by its histories."""
        stages = [stage for stage, state in self.config(run)["stages"].items() if state == "finished"]
        return {stage: float(self.rows(f"{run}/history_{stage}.csv")[-1]["seconds"]) / 60 for stage in stages}

    @property
    def benchmark(self):
        """benchmark_<cpu> without an ending, a Path: the tables of speed.

        Raises:
            UserError: there are none, or those of several processors.
        """
        found = [path for path in self.folder.glob("benchmark_*.csv") if not path.stem.endswith(("growth", "profile"))]
        if len(found) != 1:
            raise UserError(f"there must be the benchmark of one processor in {self.folder}, not of {len(found)}")
        return found[0].with_suffix("")
