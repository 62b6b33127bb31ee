"""The full state of a training in one file: every variable by its name, and who wrote it. Whole or not at all."""

import hashlib
import io
import json
import re
import sys
from functools import lru_cache

from training.options import STAGES
from utils import UserError, file_sha256, git_commit, warn, whole_file

PACKAGES = ("tensorflow", "keras", "numpy")


def package_versions(names):
    """The installed version of each package: dict of str."""
    import importlib.metadata as packages

    return {name: packages.version(name) for name in names}


@lru_cache(maxsize=1)  # every checkpoint of a process has the same
def code_version():
    """What the bytes of a training depend on besides its config: versions of packages, and the commit of this code."""
    return {**package_versions(PACKAGES), "commit": git_commit()}


def save_checkpoint(folder, name, step, arrays, state):
    """Write the full state of a training, and keep the newest two files of the run.

    The file is <folder>/<name>-<step>-<sha256>.npz: its name says what its bytes must be.

    Args:
        arrays: dict of arrays by the names of their variables, such as weights and optimizer slots.
        state: whatever else there is, as JSON.
    """
    import numpy as np

    folder.mkdir(exist_ok=True)
    header = {"names": list(arrays), "code": code_version(), "state": state}
    buffer = io.BytesIO()
    np.savez(
        buffer,
        header=np.frombuffer(json.dumps(header).encode(), np.uint8),
        **{f"array_{i:05d}": np.asarray(array) for i, array in enumerate(arrays.values())},
    )
    path = folder / f"{name}-{step:09d}-{hashlib.sha256(buffer.getbuffer()).hexdigest()[:16]}.npz"
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    found = checkpoints(folder)
    place = found.index(path)
    for old in found[:place] + found[place + 2 :]:  # newer ones were damaged and passed over
        old.unlink()


def checkpoints(folder, name=""):
    """The checkpoint files of a stage, or of all stages, newest first: by stage, the last one first, then by step."""
    pattern = rf"({'|'.join(STAGES)})-(\d{{9}})-[0-9a-f]{{16}}"
    found = {path: re.fullmatch(pattern, path.stem) for path in folder.glob(f"{name}*.npz")}
    order = {path: (STAGES.index(match[1]), match[2]) for path, match in found.items() if match}
    return sorted(order, key=order.get, reverse=True)


def is_sound(path):
    """Whether a checkpoint's bytes are what its name says."""
    return file_sha256(path)[:16] == path.stem.rpartition("-")[2]


def last_good(folder, stage=""):
    """The newest sound checkpoint of a run folder, to be named in a sentence."""
    return next(filter(is_sound, checkpoints(folder / "checkpoints", stage)), "none was made yet")


def load_checkpoint(folder, name, shapes):
    """The arrays and the state of the newest sound checkpoint of a stage, or (None, None) if there is none.

    One whose bytes are not what its name says is passed over, aloud. Other versions of packages or of this code than
    those that wrote it are told.

    Args:
        shapes: dict of shape by the name of the variable, of those that it must hold.

    Returns:
        dict of arrays by name, and the state.

    Raises:
        UserError: it cannot be read, or does not hold these variables.
    """
    for path in checkpoints(folder, name):
        if not is_sound(path):
            print(f"{path} is damaged and is passed over", file=sys.stderr)
            continue
        arrays, header = read_checkpoint(path)
        compare_variables(path, {name: array.shape for name, array in arrays.items()}, shapes, header["code"])
        warn_of_other_code(path, header["code"])
        return arrays, header["state"]
    return None, None


def read_checkpoint(path):
    """The arrays by name and the header (names, code, state) of a checkpoint file."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            if "header" not in file.files:
                raise UserError(
                    f"{path} was written by an earlier version of this code: go on with that one, or start a new run"
                )
            header = json.loads(file["header"].tobytes())
            return {name: file[f"array_{i:05d}"] for i, name in enumerate(header["names"])}, header
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it") from None


def compare_variables(path, held, wanted, code):
    """Raise a UserError when a checkpoint does not hold the variables, dicts of shape by name, that are wanted."""
    written = f"it was written by commit {code['commit']}: go on with that, or start a new run"
    for name in [*wanted, *held]:
        if name not in held:
            raise UserError(f"{path} lacks the variable {name} that this code trains; {written}")
        if name not in wanted:
            raise UserError(f"{path} holds the variable {name} that this code does not train; {written}")
        if tuple(held[name]) != tuple(wanted[name]):
            raise UserError(
                f"the variable {name} has the shape {tuple(held[name])} in {path}, and "
                f"{tuple(wanted[name])} in this code; {written}"
            )


def warn_of_other_code(path, code):
    """Tell which versions differ from those that wrote a checkpoint: the bytes of the run may then differ, too."""
    changed = [
        f"{name} {code.get(name)} -> {version}" for name, version in code_version().items() if code.get(name) != version
    ]
    if changed:
        warn(
            f"{path} was written by other code ({', '.join(changed)}): the run goes on, but not byte for byte as it "
            "would have"
        )
