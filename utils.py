"""What the scripts share: user errors, whole-or-nothing files, the run folder, seeds, precision.

Importing this module loads nothing heavy, so that ``--help`` and a mistyped flag answer at once.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
import zipfile
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

START = time.perf_counter()
VOICE = {"quiet": False, "verbose": False}  # as the flags say, for this process
RED, YELLOW = 31, 33


class UserError(Exception):
    """A mistake of the user's, in one sentence: what is wrong, where, and what to do."""


class Interrupted(Exception):
    """The work was stopped by a signal, and how to go on."""

    def __init__(self, number, message):
        super().__init__(message)
        self.status = 128 + number


def run_script(main):
    """Run ``main(argv)`` as a script: status 0 done, 2 the user's mistake, 130 and 143 interrupted."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        if VOICE["verbose"]:
            error.__suppress_context__ = False  # what it was raised from is what one wants to see
            traceback.print_exception(error)
        say(f"{Path(sys.argv[0]).name}: {coloured('error:', RED, sys.stderr)} {error}")
        sys.exit(2)
    except BrokenPipeError:  # whoever was reading, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Interrupted as error:
        say(f"{Path(sys.argv[0]).name}: {error}")
        sys.exit(error.status)
    except KeyboardInterrupt:
        say(f"{Path(sys.argv[0]).name}: interrupted")
        sys.exit(130)


def say(sentence):
    """Print to stderr, unless nobody listens any more: Ctrl-C ends ``| tee log`` too."""
    with suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)


def detail(sentence):
    """Say what only ``--verbose`` wants to know, with the seconds since the start."""
    if VOICE["verbose"]:
        say(f"{time.perf_counter() - START:8.1f} s  {sentence}")


def coloured(text, colour, stream):
    """``text`` in an ANSI colour where ``stream`` is a terminal; NO_COLOR (https://no-color.org) turns it off."""
    return f"\033[{colour}m{text}\033[0m" if stream.isatty() and not os.environ.get("NO_COLOR") else text


@contextmanager
def finishing_step():
    """Note SIGTERM and Ctrl-C in the list that is yielded, for whoever loops to obey; a second one leaves at once."""
    received = []

    def note(number, frame):
        if received:
            raise Interrupted(number, "left at once: what is on disk is whole, and --resume goes on from there")
        received.append(number)
        say("finishing the step and saving; once more to leave at once")

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def progress(iterable=None, **options):
    """A tqdm progress bar with rate and time left; silent with ``--quiet``, or when the output is not a terminal."""
    from tqdm import tqdm

    return tqdm(iterable, disable=VOICE["quiet"] or None, dynamic_ncols=True, **options)


# ---- random numbers -------------------------------------------------------------------------


def random_generator(seed, purpose, *index):
    """A numpy Generator that is a function of (seed, purpose, index) and of nothing else.

    Args:
        seed: int ≥ 0, the seed of the run.
        purpose: str, what the numbers are for ("split", "order", "codes", …).
        index: ints ≥ 0, such as the epoch, the step or the number of the image.
    """
    import numpy as np

    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, purpose_id(purpose), *index])))


def purpose_id(purpose):
    """The same 31-bit integer for the same words, in every process (``hash`` is salted)."""
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big") >> 1


# ---- files ----------------------------------------------------------------------------------


@contextmanager
def whole_file(path):
    """Yield a temporary path beside ``path``; rename it into place only when the block succeeds.

    A kill at any instant leaves the previous file, or none, but never half of one.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        detail(f"wrote {path}")
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def new_folder(path):
    """Yield a folder beside ``path`` to fill; rename it into place only when the block succeeds.

    Raises:
        UserError: ``path`` holds something already, or cannot be written.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} already holds something and is left alone: choose another name with --out")
    with making_folder(path.with_name(f".unfinished-{path.name}")) as unfinished:
        yield unfinished
        if path.exists():
            path.rmdir()
        unfinished.rename(path)
        detail(f"wrote {path}")


@contextmanager
def making_folder(path):
    """Make a folder with its parents; when the block fails, remove what was made.

    Raises:
        UserError: it cannot be made.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        _remove(made)
        raise UserError(f"{error.filename or path} cannot be written ({error.strerror}): "
                        "choose another place") from None
    except BaseException:
        _remove(made)
        raise


def _remove(made):
    """Remove folders that were just made, the deepest first; its contents go with that one."""
    if made:
        shutil.rmtree(made[0], ignore_errors=True)
    for folder in made[1:]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_json(path, value):
    """Write ``value`` as indented JSON, whole or not at all. NaN is refused: it is not JSON."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path, rows):
    """Write a list of dicts with the same keys, whole or not at all."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def load_json(path):
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from None


def file_sha256(path):
    """The sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- flags ----------------------------------------------------------------------------------


def check_folder(path):
    """Raise a UserError unless there is such a folder: to be asked before anything heavy is loaded."""
    if not os.path.isdir(path):
        raise UserError(f"{path} {'is a file, not a folder' if os.path.exists(path) else 'does not exist'}")


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are a UserError: one sentence, status 2, no usage dump.

    It adds --quiet and --verbose and obeys them itself, so that they are not among the flags.
    """

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
                         usage="python %(prog)s [flags]", **options)
        voice = self.add_mutually_exclusive_group()
        voice.add_argument("--quiet", action="store_true", help="say nothing but warnings and errors")
        voice.add_argument("--verbose", action="store_true",
                           help="name every file written, let the libraries speak, and show where an error arose")

    def parse_args(self, argv):
        flags = super().parse_args(argv)
        VOICE.update({name: vars(flags).pop(name) for name in VOICE})
        if VOICE["quiet"]:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open for the rest of the process
        return flags

    def error(self, message):
        raise UserError(f"{message} (see --help)")


def number(kind, least=None, most=None):
    """An argparse type: an ``int`` or ``float`` in [least, most]."""

    def convert(text):
        value = kind(text)
        if (least is not None and value < least) or (most is not None and value > most) or value != value:
            bounds = f"at least {least}" + (f" and at most {most}" if most is not None else "")
            raise argparse.ArgumentTypeError(f"must be {bounds}, not {text}")
        return value

    convert.__name__ = "whole number" if kind is int else "number"
    return convert


# ---- the run folder -------------------------------------------------------------------------


def run_folder(name):
    """``--run X``: a path when it has a separator, otherwise ``runs/X`` under the current folder."""
    return Path(name) if "/" in name or os.sep in name else Path("runs") / name


def run_name(folder):
    """What to give ``--run`` for a run folder: the inverse of ``run_folder``."""
    return folder.name if folder.parent == Path("runs") else folder


def read_config(folder):
    """The config.json of a run, checked.

    Raises:
        UserError: it is missing, is not JSON, was written by a newer version, or does not say what it must.
    """
    path = folder / "config.json"
    config = load_json(path)
    newer = isinstance(config, dict) and isinstance(config.get("format"), int) and config["format"] > CONFIG_FORMAT
    if newer:
        raise UserError(f"{path} was written by a newer version of this code: use that one")
    for name, (means, fits) in (CONFIG_ENTRIES | CONFIG_OPTIONS).items():
        if not isinstance(config, dict) or (name in CONFIG_ENTRIES and name not in config) or (
                name in config and not fits(config[name])):
            raise UserError(f"{path} is damaged or was edited: its {name} is not {means}; put the original back")
    return config


def _whole(value, least=0):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _all(count, test):
    return lambda value: isinstance(value, list) and (count is None or len(value) == count) and all(map(test, value))


CONFIG_FORMAT = 1
CONFIG_ENTRIES = {  # name: (what it must be, how to tell)
    "stages": ("the state of both stages", lambda value: isinstance(value, dict) and set(value) == {"vqvae", "prior"}
               and set(value.values()) <= {"wanted", "not wanted", "finished"}),
    "finished": ("true or false", lambda value: isinstance(value, bool)),
    "seed": ("a whole number", _whole),
    "data": ("a folder's name", lambda value: isinstance(value, str)),
    "frame": ("height and width", _all(2, lambda side: _whole(side, 1))),
    "crop_box": ("top, left, height and width", _all(4, lambda side: _whole(side, -4096))),
    "code_grid": ("rows and columns", _all(2, lambda side: _whole(side, 1))),
    "labels": ("a list of labels", _all(None, lambda label: isinstance(label, str))),
    "num_positions": ("a whole number from 1", lambda value: _whole(value, 1)),
    "num_codes": ("a whole number from 2", lambda value: _whole(value, 2)),
    **{name: ("a whole number from 1", lambda value: _whole(value, 1)) for name in (
        "code_dim", "downsample", "vqvae_width", "vqvae_steps", "prior_steps", "prior_layers", "prior_width",
        "batch_size", "evaluations")},
    "precision_resolved": ("a precision", lambda value: value in ("float32", "mixed_bfloat16", "mixed_float16")),
    "data_fingerprint": ("a sha256", lambda value: isinstance(value, str)),
}


def _number(least, most=float("inf")):
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _or_none(fits):
    return lambda value: value is None or fits(value)


CONFIG_OPTIONS = {  # those that older runs may lack
    **{name: ("true or false", lambda value: isinstance(value, bool)) for name in (
        "flip", "gradient_codebook", "crop", "deterministic", "allow_overlap", "simulated")},
    **{name: ("text or null", _or_none(lambda value: isinstance(value, str))) for name in (
        "metadata", "subject_pattern", "source")},
    "learning_rate": ("a number over 0", _number(1e-12)),
    "commitment_cost": ("a number from 0 to 1000", _number(0, 1000)),
    "detail_weight": ("a number from 0 to 1000", _number(0, 1000)),
    "checkpoint_minutes": ("a number from 0", _number(0)),
    "augment": ("a number from 0 to 1", _number(0, 1)),
    "prior_dropout": ("a number from 0 to 0.9", _number(0, 0.9)),
    "residual_blocks": ("a whole number", _whole),
    "prior_vertical_width": ("a whole number or null", _or_none(lambda value: _whole(value, 1))),
    "slice_limit": ("a whole number or null", _or_none(lambda value: _whole(value, 1))),
    "image_size": ("height and width or null", _or_none(_all(2, lambda side: _whole(side, 1)))),
    "loss": ("a reconstruction error", lambda value: value in ("pyramid", "squared")),
    "distribute": ("none, mirrored or multiworker", lambda value: value in ("none", "mirrored", "multiworker")),
}


def open_run(name=None, stage="prior"):
    """The folder and config of a run whose ``stage`` ("vqvae" or "prior") is finished.

    Without a name, the newest such run under ``runs/``.

    Raises:
        UserError: there is no such run, or it is not finished.
    """
    def done(config):
        stages = config.get("stages") if isinstance(config, dict) else None
        return isinstance(stages, dict) and stages.get(stage) == "finished"

    if name is None:
        finished = [path.parent for path in Path("runs").glob("*/config.json") if done(load_json(path))]
        if not finished:
            raise UserError("there is no finished run under runs/: train one with python train.py")
        folder = max(finished, key=lambda path: (path / "config.json").stat().st_mtime)
        print(f"run: {folder} (the newest finished one)")
    else:
        folder = run_folder(name)
    if not (folder / "config.json").is_file():
        raise UserError(f"there is no run at {folder}: train one with python train.py --run {name}")
    config = read_config(folder)
    if not done(config):
        raise UserError(f"the {stage} of the run {folder} is not finished: train it, or choose another with --run")
    return folder, config


@contextmanager
def locked(folder):
    """Hold a run folder for one process; the lock is the system's and ends with the process, however it ends.

    Raises:
        UserError: another process holds it, and which.
    """
    import fcntl

    with open(folder / "lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{folder} is being trained by {file.read().strip() or 'another process'}: wait for it, or "
                            "stop it") from None
        except OSError as error:
            raise UserError(f"{folder} is on a file system that knows no locks ({error.strerror}): choose another, or "
                            "have it mounted with them") from None
        for left in (*folder.glob(".unfinished-*"), *(folder / "checkpoints").glob(".unfinished-*")):
            if left.is_file():  # by a process that was killed in a write
                left.unlink()
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
        (folder / "lock").unlink()


def read_slices(folder):
    """The index of a run, slices.csv, as a DataFrame.

    Raises:
        UserError: it is missing or damaged, or names files outside the folder of the slices.
    """
    import pandas as pd

    path = folder / "slices.csv"
    try:
        slices = pd.read_csv(path, dtype={"path": str, "subject": str, "label": str, "split": str, "slice": "int64",
                                          "position": "int64"}, keep_default_na=False)
        missing = {"path", "subject", "slice", "position", "label", "split"} - set(slices.columns)
        if missing:
            raise ValueError(f"the column {min(missing)} is missing")
        if not set(slices["split"]) <= {"train", "validation", "test"} or (slices["position"] < 0).any():
            raise ValueError("a split or a position is none")
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in slices["path"]):
            raise ValueError("a path leads out of the folder of the slices")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be used ({error}): put the original back") from None
    return slices


def git_commit():
    """The commit of this code, or None outside a checkout."""
    try:
        return subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, check=True,
                              capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


KERAS_FILES = {"metadata.json", "config.json", "model.weights.h5"}  # no path that climbs, nothing to execute


def load_models(folder, prior=True):
    """The VQ-VAE and, unless ``prior`` is false, the PixelCNN of a run, in float32.

    Raises:
        UserError: a model is missing or damaged, is not what config.json says, or the prior belongs to another VQ-VAE.
    """
    import keras

    import modules

    config, models = read_config(folder), []
    for name, kind in (("vqvae.keras", modules.VQVAE), ("prior.keras", modules.GatedPixelCNN))[: 1 + prior]:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} does not exist: train it with python train.py")
        if not zipfile.is_zipfile(folder / name) or set(zipfile.ZipFile(folder / name).namelist()) != KERAS_FILES:
            raise UserError(f"{folder / name} cannot be loaded (it is not a Keras archive of exactly "
                            f"{', '.join(sorted(KERAS_FILES))}): train the run again")
        try:
            models.append(keras.saving.load_model(folder / name, compile=False, safe_mode=True))
        except Exception as error:  # Keras raises a dozen kinds for a damaged file
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"{folder / name} cannot be loaded ({reason[0]}): train the run again") from None
        if not isinstance(models[-1], kind) or not models[-1].fits(config):
            raise UserError(f"{folder / name} is not the model that {folder / 'config.json'} describes: put the "
                            "original back")
    if prior and models[1].vqvae_sha256 != file_sha256(folder / "vqvae.keras"):
        raise UserError(f"{folder / 'prior.keras'} was trained on the codes of another VQ-VAE than "
                        f"{folder / 'vqvae.keras'}: train the prior again with python train.py --stage prior")
    return models


def save_model(model, path):
    """Save a model uncompiled and with float32 policies, whole or not at all.

    Keras stores the dtype policy of every layer, and a model trained in bfloat16 must not sample in
    emulated bfloat16 on another machine.
    """
    settings = {name: value for name, value in model.get_config().items() if name != "dtype"}
    twin = type(model)(**settings, dtype="float32")
    twin.set_weights(model.get_weights())
    with whole_file(path) as temporary:
        twin.save(temporary)


# ---- checkpoints ----------------------------------------------------------------------------


def save_checkpoint(folder, name, step, arrays, state):
    """Write the full state of a training whole, and keep the newest two files of the run.

    The file is <folder>/<name>-<step>-<sha256>.npz: its name says what its bytes must be.

    Args:
        arrays: list of arrays, such as weights and optimizer slots.
        state: whatever else there is, as JSON.
    """
    import numpy as np

    folder.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, state=np.frombuffer(json.dumps(state).encode(), np.uint8),
             **{f"array_{i:05d}": np.asarray(array) for i, array in enumerate(arrays)})
    path = folder / f"{name}-{step:09d}-{hashlib.sha256(buffer.getbuffer()).hexdigest()[:16]}.npz"
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    found = checkpoints(folder)
    place = found.index(path)
    for old in found[:place] + found[place + 2:]:  # newer ones were damaged and passed over
        old.unlink()


def checkpoints(folder, name=""):
    """The checkpoint files of a stage, or of all stages, newest first: by stage, vqvae first, then by step."""
    found = [path for path in folder.glob(f"{name}*.npz") if re.fullmatch(r"[a-z]+-\d{9}-[0-9a-f]{16}", path.stem)]
    return sorted(found, key=lambda path: (path.name.startswith("prior"), path.name.split("-")[1]), reverse=True)


def is_sound(path):
    """Whether a checkpoint's bytes are what its name says."""
    return file_sha256(path)[:16] == path.stem.rpartition("-")[2]


def load_checkpoint(folder, name):
    """The arrays and the state of the newest sound checkpoint of a stage, or (None, None) if there is none.

    One whose bytes are not what its name says is passed over, aloud.
    """
    import numpy as np

    for path in checkpoints(folder, name):
        if not is_sound(path):
            print(f"{path} is damaged and is passed over", file=sys.stderr)
            continue
        try:
            with np.load(path, allow_pickle=False) as file:
                state = json.loads(file["state"].tobytes())
                return [file[key] for key in sorted(file.files) if key != "state"], state
        except ValueError as error:
            raise UserError(f"{path} cannot be read ({error}): remove it") from None
    return None, None


# ---- TensorFlow -----------------------------------------------------------------------------


def start_tensorflow(deterministic=True):
    """Import TensorFlow without its start-up chatter, and make its operations repeatable."""
    return start_distributed(deterministic, "none")[0]


def start_distributed(deterministic, distribute):
    """TensorFlow, and the strategy by which several devices train together.

    Args:
        distribute: "none"; "mirrored", all GPUs of this machine, or without any all its logical CPUs; or
            "multiworker", this and other processes, as TF_CONFIG or Slurm describes them.

    Returns:
        The module and a tf.distribute.Strategy.

    Raises:
        UserError: the cluster cannot be joined.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if VOICE["verbose"] else "3")
    with nullcontext() if VOICE["verbose"] else _silent_stderr():
        import tensorflow as tf

        if not VOICE["verbose"]:
            tf.get_logger().setLevel("ERROR")  # it warns of every new shape of a batch
        strategy = tf.distribute.get_strategy()
        if distribute == "multiworker":  # must come before the first operation
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's would wait for TensorFlow
            try:
                strategy = tf.distribute.MultiWorkerMirroredStrategy(_cluster_resolver(tf.distribute.cluster_resolver))
            except (tf.errors.OpError, RuntimeError, ValueError) as error:
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise UserError(f"the other workers cannot be joined ({reason}): check the addresses that TF_CONFIG or "
                                "Slurm gives") from None
            finally:
                for number, handler in handlers.items():  # TensorFlow takes SIGTERM for itself
                    signal.signal(number, handler)
        tf.config.list_physical_devices()
        tf.zeros(1) + 1  # the devices are initialised, and speak, at the first operation
        if distribute == "mirrored":
            devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return tf, strategy


def _cluster_resolver(resolvers):
    """What tells TensorFlow where the workers are."""
    if "TF_CONFIG" in os.environ:
        return resolvers.TFConfigClusterResolver()
    if shutil.which("nvidia-smi"):
        return resolvers.SlurmClusterResolver()
    return resolvers.SlurmClusterResolver(gpus_per_node=1024, gpus_per_task=1, auto_set_gpu=False)  # else it asks


def cluster_task():
    """This process's place among the workers: (number, count); the number 0 is the chief's.

    Raises:
        UserError: neither TF_CONFIG nor Slurm tells it.
    """
    if "TF_CONFIG" not in os.environ:
        if {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"} <= set(os.environ):
            return int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_STEP_NUM_TASKS"])
        raise UserError("--distribute multiworker needs TF_CONFIG to say who the workers are, or srun to start them "
                        "(--distribute none trains on this machine alone)")
    try:
        described = json.loads(os.environ["TF_CONFIG"])
        cluster, kind, index = described["cluster"], described["task"]["type"], int(described["task"]["index"])
        members = [(name, i) for name in ("chief", "worker") for i in range(len(cluster.get(name, ())))]
        return members.index((kind, index)), len(members)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError('TF_CONFIG must be such as {"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
                        f'"task": {{"type": "worker", "index": 0}}}}, not {os.environ["TF_CONFIG"]}') from None


class Team:
    """All that train one model together: the replicas of a strategy in this process and in others.

    Attributes:
        tf: the TensorFlow module.
        strategy: a tf.distribute.Strategy.
        chief: bool; only the chief's process writes.
        workers: the number of processes.
    """

    def __init__(self, tf, strategy, worker=0, workers=1):
        self.tf, self.strategy, self.chief, self.workers = tf, strategy, worker == 0, workers

        def chiefs(value):
            context = tf.distribute.get_replica_context()
            return context.all_reduce("sum", tf.where(context.replica_id_in_sync_group == 0, value, 0.0))

        self._chiefs = tf.function(lambda value: strategy.run(chiefs, (value,)))

    def agree(self, values):
        """The chief's values, in all processes: dict of float, with the same keys in each."""
        if self.workers == 1:
            return values
        agreed = self.local(self._chiefs(self.tf.constant(list(values.values()), self.tf.float64)))
        return dict(zip(values, agreed.numpy().tolist(), strict=True))

    def wait(self):
        """Until all processes have come here."""
        self.agree({"here": 1.0})

    def local(self, value):
        """One replica's value, of one that every replica has."""
        return self.strategy.experimental_local_results(value)[0]


@contextmanager
def _silent_stderr():
    """Keep what C++ writes to stderr out of sight, unless the block fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def low_precision_candidate(tf):
    """The precision worth timing against float32 on this machine, or None.

    bfloat16 is several times faster on a CPU with AMX and over ten times slower on one with AVX2 only.
    """
    if tf.config.list_physical_devices("GPU"):
        return "mixed_bfloat16"
    flags = _cpuinfo()
    return "mixed_bfloat16" if "amx_bf16" in flags or "avx512_bf16" in flags else None


def processor():
    """The name of the processor and which of AVX2, AVX-512, AMX it has, as far as the system says."""
    text = _cpuinfo()
    name = re.search(r"model name\s*:\s*(.+)", text)
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in text]
    return f"{name[1] if name else platform.machine()} ({', '.join(flags)})"


def _cpuinfo():
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


# ---- figures --------------------------------------------------------------------------------


def save_png(path, image):
    """Write one grey image, (H, W) or (H, W, 1) float in [0, 1] or uint8, and nothing else, as a PNG."""
    import numpy as np
    from PIL import Image

    Image.fromarray(to_bytes(np.asarray(image))).save(path, format="PNG")


def save_nifti(path, image, pixel_size):
    """Write one grey image, (H, W, 1) uint8, as a NIfTI volume of one slice: (W, H, 1), RAS+, in mm.

    Taken for granted is that columns run from the person's left to the right and rows from anterior to posterior.
    The centre of the frame is the origin; the slice is 1 mm thick.
    """
    import nibabel
    import numpy as np

    volume = np.asarray(image)[::-1, :, 0].T[..., None]  # (W, H, 1): x to the right, y to the front
    affine = np.diag([pixel_size, pixel_size, 1.0, 1.0])
    affine[:2, 3] = -pixel_size * (np.array(volume.shape[:2]) - 1) / 2
    nifti = nibabel.Nifti1Image(volume, affine)
    nifti.header.set_xyzt_units("mm")
    nifti.header["descrip"] = b"sampled from a model: a scan of nobody"
    nibabel.save(nifti, path)


def to_bytes(images):
    """Float in [0, 1] -> uint8, rounded; (…, 1) -> (…)."""
    import numpy as np

    images = images[..., 0] if images.shape[-1] == 1 else images
    return images if images.dtype == np.uint8 else np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def image_sheet(path, images, columns, row_names=(), captions=(), title=None, differences=()):
    """A figure of grey images (N, H, W, 1) in rows of ``columns``.

    Args:
        row_names: what to write beside each row.
        captions: what to write above each image.
        differences: the rows to draw in colours, blue below 0, black at 0, red above, up to ±0.25.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = -(-len(images) // columns)
    height, width = images.shape[1:3]
    size = 1.6  # inches per image
    left = 0.9 if row_names else 0.1
    caption_height = 0.2 if len(captions) else 0.0
    figure_width = left + columns * size
    title_lines = _title_lines(title, figure_width)
    top = 0.2 + 0.2 * len(title_lines) if title else 0.1
    figure_height = top + rows * (size * height / width + caption_height)
    figure = plt.figure(figsize=(figure_width, figure_height), facecolor="black")
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        cell_height = (size * height / width + caption_height) / figure_height
        axes = figure.add_axes([(left + column * size) / figure_width,
                                1 - top / figure_height - (row + 1) * cell_height,
                                size / figure_width * 0.98, size * height / width / figure_height * 0.98])
        if row in differences:
            axes.imshow(image[..., 0], cmap=around_black(), vmin=-0.25, vmax=0.25)
        else:
            axes.imshow(to_bytes(image), cmap="gray", vmin=0, vmax=255)
        axes.axis("off")
        if len(captions):
            axes.set_title(captions[i], color="white", fontsize=8, pad=2)
        if column == 0 and row < len(row_names):
            figure.text(0.05 / figure_width * 2, 1 - top / figure_height - (row + 0.5) * cell_height,
                        row_names[row], color="white", fontsize=8, va="center", rotation=0)
    _write_figure(figure, path, title_lines)


def number_sheet(path, pictures, title):
    """A row of pictures, those that show numbers in colours and with a colour bar.

    Args:
        pictures: list of (what to write above it, (H, W) array, colours, least, most); without colours it is grey.
        title: what to write above them all.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    height, width = pictures[0][1].shape
    size = 2.2  # inches per picture
    figure_width, bar = len(pictures) * size, 0.5
    title_lines = _title_lines(title, figure_width)
    top = 0.45 + 0.2 * len(title_lines)
    picture_height = size * height / width
    figure_height = top + picture_height + bar
    figure = plt.figure(figsize=(figure_width, figure_height), facecolor="black")
    for i, (caption, picture, colours, least, most) in enumerate(pictures):
        place = [i / len(pictures), bar / figure_height, 0.97 / len(pictures), picture_height / figure_height]
        axes = figure.add_axes(place)
        drawn = axes.imshow(picture, cmap=colours or "gray", vmin=least, vmax=most, interpolation="nearest")
        axes.axis("off")
        axes.set_title(caption, color="white", fontsize=8, pad=3)
        if colours:
            bar_axes = figure.add_axes([place[0] + 0.1 * place[2], 0.3 / figure_height, 0.8 * place[2],
                                        0.1 / figure_height])
            figure.colorbar(drawn, cax=bar_axes, orientation="horizontal")
            bar_axes.tick_params(colors="white", labelsize=7, length=2)
    _write_figure(figure, path, title_lines)


def around_black():
    """Colours for numbers on both sides of 0: blue below, black at 0, red above."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("around black", ["#bfe6ff", "#2b8cd6", "black", "#d6452b", "#ffd2bf"])


def _title_lines(title, figure_width):
    """A title in lines that fit into so many inches."""
    return textwrap.wrap(title or "", max(20, int(figure_width * 13)))


def _write_figure(figure, path, title_lines):
    """Write a figure on black with its title at the top, whole or not at all, and close it."""
    import matplotlib.pyplot as plt

    if title_lines:
        figure.text(0.5, 1 - (0.1 + 0.1 * len(title_lines)) / figure.get_figheight(), "\n".join(title_lines),
                    color="white", ha="center", va="center", fontsize=10)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, facecolor="black", metadata={"Software": None})
    plt.close(figure)


def save_animation(path, frames, milliseconds):
    """Write an animation that repeats, as a GIF, from the PNG files of its frames, which go."""
    from PIL import Image

    images = []
    for frame in frames:
        with Image.open(frame) as image:
            images.append(image.convert("L"))
        Path(frame).unlink()
    with whole_file(path) as temporary:
        images[0].save(temporary, format="GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0)
