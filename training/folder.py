"""The run folder: all that passes from training to sampling. Its config.json, its lock, its models."""

import os
import zipfile
from contextlib import contextmanager
from pathlib import Path

from slices.processes import held
from training.options import OPTIONS, fits, meaning
from utils import UserError, file_sha256, load_json, shell, sweep, whole_file

SHIPPED = Path(__file__).parents[1] / "ReducedResults" / "brains"  # the run that comes with the code
CONFIG_FORMAT = 1
FULL = 65535  # the largest value of 16 bits
KERAS_FILES = {"metadata.json", "config.json", "model.weights.h5"}  # no path that climbs, nothing to execute


def run_folder(name):
    """``--run X``: a path when it has a separator, otherwise ``runs/X`` under the current folder."""
    if not name:
        raise UserError("--run and --resume need a name: leave them out, or give one")
    return Path(name) if "/" in name or os.sep in name else Path("runs") / name


def run_name(folder):
    """What to give ``--run`` for a run folder: the inverse of ``run_folder``."""
    return folder.name if folder.parent == Path("runs") else folder


def find_beside(folder, name):
    """The path that a run's config gives, of its data or metadata, as it is to be found from here: a Path.

    A relative one counted from where the training began. Where it leads nowhere from the current folder, it is tried
    from the folders above the run's, of which the nearest one that has it is taken. The path as it was is returned
    where there is none, or where it is absolute.

    Args:
        folder: Path of the run.
        name: str or Path.
    """
    name = Path(name)
    if name.exists() or name.is_absolute():
        return name
    return next((above / name for above in folder.absolute().parents if (above / name).exists()), name)


@contextmanager
def data_found(folder, config):
    """In the block, the config's data are where they are to be found from here; afterwards as they were given again."""
    given = config["data"]
    if given is not None:
        config["data"] = str(find_beside(folder, given))
    try:
        yield
    finally:
        if given is not None:
            config["data"] = given  # a path of this machine has no business in a config that is shared


def check_data(folder, config, place=None):
    """Raise a UserError unless the data of a run are there, or in the folder ``place``, where they are said to be."""
    place = place or find_beside(folder, config["data"])
    if not place.is_dir():
        command = demo_command(config) if place == Path(config["data"]) else None
        make = f"make it with {command}, or " if command else ""
        raise UserError(f"the data {place} of the run {folder} is not there: {make}say where it is with --data DIR")


def demo_command(config):
    """The command that makes the demo cohort of a run where train.py made it: a str, or None of other data."""
    from slices.cohort import demo_folder

    people, size = config.get("demo_people"), config.get("image_size") or (240, 256)
    if not config.get("simulated") or Path(config["data"]) != demo_folder(people, size):
        return None
    return shell("python", "dataset.py", "demo", "--people", people, "--image-size", *size)


# ---- config.json --------------------------------------------------------------------------------


def _whole(value, least=0):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _all(count, test):
    return lambda value: isinstance(value, list) and (count is None or len(value) == count) and all(map(test, value))


FACTS = {  # what a config tells besides its options: (what it must be, how to tell)
    "stages": (
        "the state of its stages",
        lambda value: (
            isinstance(value, dict)
            and {"vqvae", "prior"} <= set(value) <= {"vqvae", "prior", "refiner"}
            and set(value.values()) <= {"wanted", "not wanted", "finished"}
        ),
    ),
    "finished": ("true or false", lambda value: isinstance(value, bool)),
    "data": ("a folder's name", lambda value: isinstance(value, str)),
    "frame": ("height and width", _all(2, lambda side: _whole(side, 1))),
    "crop_box": ("top, left, height and width", _all(4, lambda side: _whole(side, -4096))),
    "code_grid": ("rows and columns", _all(2, lambda side: _whole(side, 1))),
    "labels": ("a list of labels", _all(None, lambda label: isinstance(label, str))),
    "num_positions": ("a whole number from 1", lambda value: _whole(value, 1)),
    "precision_resolved": ("a precision", lambda value: value in ("float32", "mixed_bfloat16", "mixed_float16")),
    "prior_convolution_resolved": ("dilated or shifted", lambda value: value in ("dilated", "shifted")),
    "data_fingerprint": ("a sha256", lambda value: isinstance(value, str)),
    "simulated": ("true or false", lambda value: isinstance(value, bool)),
    "source": ("text or null", lambda value: value is None or isinstance(value, str)),
    "white_of_16_bits": (
        "a whole number from 1 to 65535 or null",
        lambda value: value is None or (_whole(value, 1) and value <= FULL),
    ),
    "shipped": ("true or false", lambda value: isinstance(value, bool)),  # nothing is written between its files
}
TOLD_OTHERWISE = "prior_contexts"  # of older runs: 1 the slice below, 2 the lowest, too
OLDER_LACK = {"prior_convolution_resolved", "simulated", "source", "white_of_16_bits", "shipped"}


def read_config(folder):
    """The config.json of a run, checked.

    Raises:
        UserError: it is missing, is not JSON, was written by a newer version, or does not say what it must.
    """
    path = folder / "config.json"
    config = load_json(path)
    if isinstance(config, dict) and isinstance(config.get("format"), int) and config["format"] > CONFIG_FORMAT:
        raise UserError(f"{path} was written by a newer version of this code: use that one")
    if isinstance(config, dict) and TOLD_OTHERWISE in config:
        config = told_as_now(path, config)
    for name, means in wrong_entries(config):
        raise UserError(f"{path} is damaged or was edited: its {name} is not {means}; put the original back")
    return config


def told_as_now(path, config):
    """The config of an older run in today's words; those told the slice below alone are told the same today.

    Raises:
        UserError: its prior was told the lowest slice, too, which is told no more.
    """
    count = config.pop(TOLD_OTHERWISE)
    if count in (0, 1):
        return config | {"prior_slices_below": count}
    raise UserError(
        f"{path} is of an earlier version, whose prior was told the lowest slice of a head, too: use that version, or "
        "train a new run"
    )


def wrong_entries(config):
    """Yield (name, what it must be) of every entry of a config that is missing or is not what it must be."""
    if not isinstance(config, dict):
        yield "content", "a table"
        return
    for name, (means, right) in FACTS.items():
        if not right(config[name]) if name in config else name not in OLDER_LACK:
            yield name, means
    for name, each in OPTIONS.items():
        if name not in FACTS and (not fits(name, config[name]) if name in config else each.metadata["needed"]):
            yield name, meaning(name)


def white_of(config):
    """Which value of 16-bit files is white in a run; None where its slices have 8 bits. Older runs took the full range.

    Args:
        config: dict, its config.json.
    """
    return config.get("white_of_16_bits", FULL)


def open_run(name=None, stage="prior"):
    """The folder and config of a run whose ``stage`` ("vqvae" or "prior") is finished.

    Without a name, the newest such run under ``runs/``; where nothing is trained, the one that comes with the code.

    Raises:
        UserError: there is no such run, or it is not finished.
    """

    def done(config):
        stages = config.get("stages") if isinstance(config, dict) else None
        return isinstance(stages, dict) and stages.get(stage) == "finished"

    if name is None:
        finished = [path.parent for path in Path("runs").glob("*/config.json") if done(load_json(path))]
        if finished:
            folder = max(finished, key=lambda path: (path / "config.json").stat().st_mtime)
            print(f"run: {folder} (the newest finished one)")
        else:
            folder = shipped_run()
            print(f"run: {folder} (it comes with the code; nothing is trained under runs/)")
    else:
        folder = run_folder(str(name))
    if not (folder / "config.json").is_file():
        raise UserError(f"there is no run at {folder}: train one with {shell('python', 'train.py', '--run', name)}")
    config = read_config(folder)
    if not done(config):
        raise UserError(f"the {stage} of the run {folder} is not finished: {_to_finish(folder, config, stage)}")
    return folder, config


def _to_finish(folder, config, stage):
    """How a stage of a run comes to be finished, in words."""
    if config["stages"][stage] == "wanted":
        return f"go on with {shell('python', 'train.py', '--resume', folder)}, or choose another run with --run"
    return f"train it with {shell('python', 'train.py', '--stage', stage, '--run', folder)}"


def shipped_run():
    """The folder of the run that comes with the code, as it is seen from here.

    Raises:
        UserError: this copy of the code came without it.
    """
    if not (SHIPPED / "prior.keras").is_file():
        raise UserError("there is no finished run under runs/: train one with python train.py")
    return SHIPPED.relative_to(Path.cwd()) if SHIPPED.is_relative_to(Path.cwd()) else SHIPPED


# ---- the lock -----------------------------------------------------------------------------------


@contextmanager
def locked(folder):
    """Hold a run folder for one process, and remove what killed ones left half-written in it.

    Raises:
        UserError: another process holds it, and which.
    """
    with held(folder, "being trained"):
        for place in (folder, folder / "checkpoints"):
            sweep(place)
        yield


# ---- the models ---------------------------------------------------------------------------------


def load_models(folder, prior=True):
    """The VQ-VAE and, unless ``prior`` is false, the PixelCNN of a run, in float32: a list.

    Raises:
        UserError: a model is missing or damaged, is not what config.json says, or the prior belongs to another VQ-VAE.
    """
    import modules

    config = read_config(folder)
    kinds = {"vqvae.keras": modules.VQVAE, "prior.keras": modules.Prior}
    models = [load_model(folder / name, kinds[name], config) for name in list(kinds)[: 1 + prior]]
    if prior and models[1].vqvae_sha256 != file_sha256(folder / "vqvae.keras"):
        raise UserError(
            f"{folder / 'prior.keras'} was trained on the codes of another VQ-VAE than "
            f"{folder / 'vqvae.keras'}: train the prior again with python train.py --stage prior"
        )
    return models


def load_refiner(folder):
    """The Refiner of a run, in float32, or None where it has none.

    Raises:
        UserError: it is damaged, is not what config.json says, or belongs to another VQ-VAE.
    """
    import modules

    config = read_config(folder)
    if config["stages"].get("refiner") != "finished":
        return None
    refiner = load_model(folder / "refiner.keras", modules.Refiner, config)
    if refiner.vqvae_sha256 != file_sha256(folder / "vqvae.keras"):
        raise UserError(
            f"{folder / 'refiner.keras'} was trained on images of another VQ-VAE than "
            f"{folder / 'vqvae.keras'}: put the original back"
        )
    return refiner


def load_model(path, kind, config):
    """The model of the class ``kind`` in a .keras file, in safe mode and uncompiled.

    Raises:
        UserError: it is missing or damaged, or not the one that ``config`` describes.
    """
    import keras

    if not path.is_file():
        raise UserError(f"{path} does not exist: train it with python train.py")
    if not zipfile.is_zipfile(path) or set(zipfile.ZipFile(path).namelist()) != KERAS_FILES:
        raise UserError(
            f"{path} cannot be loaded (it is not a Keras archive of exactly "
            f"{', '.join(sorted(KERAS_FILES))}): train the run again"
        )
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises a dozen kinds for a damaged file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path} cannot be loaded ({reason[0]}): train the run again") from None
    if not isinstance(model, kind) or not model.fits(config):
        raise UserError(
            f"{path} is not the model that {path.with_name('config.json')} describes: put the original back"
        )
    return model


def save_model(model, path):
    """Save a model uncompiled, with float32 policies and its weights rounded to float16, whole or not at all.

    Keras stores the dtype policy of every layer, and a model trained in bfloat16 must not sample in
    emulated bfloat16 on another machine. The weights are rounded here, before anything is made with them, so that
    all that follows is of the weights that are passed on. The same weights make the same bytes.
    """
    from training.packing import pack

    settings = {name: value for name, value in model.get_config().items() if name != "dtype"}
    twin = type(model)(**settings, dtype="float32")
    twin.set_weights(model.get_weights())
    with whole_file(path) as temporary:
        twin.save(temporary)
        pack(temporary)
