"""From flags to a run: its config, what is refused, and the run folder at its beginning.

Loads nothing heavy before a run is planned with data.
"""

import datetime
import json
import os
import platform
import shutil
from contextlib import contextmanager
from pathlib import Path

from slices.machine import cores, processor
from training.checkpoints import last_good, package_versions
from training.folder import CONFIG_FORMAT, check_data, find_beside, open_run, read_config, run_folder
from training.options import PRESETS, flag_of, names_of, preset_values, with_defaults
from utils import UserError, check_folder, git_commit, new_folder, save_json, shell, version

OUTCOMES = ("validation", "seconds", "shipped")  # what a config tells of its own run, and no other begins with
PACKAGES = ("tensorflow", "keras", "tensorflow-probability", "numpy", "pandas", "scikit-image")


# ---- flags → config -----------------------------------------------------------------------------


def resolve_config(options, run=None, preset=None, stage="all", vqvae=None, resume=None, dry_run=False):
    """Preset, defaults and flags -> the run folder and its config; or those of the run that is continued or copied.

    Args:
        options: dict of the options (training/options.py) that were given.
        run: name of the run, or a path.
        stage: "vqvae", "prior", "refiner", or "all".
        vqvae: the run whose VQ-VAE a new run starts from.
        resume: the run to go on with.

    Raises:
        UserError: flags that contradict each other, or a run folder that may not be used.
    """
    if resume is not None:
        if preset or dry_run or run or vqvae or stage != "all" or set(options) - set(names_of(resumable=True)):
            may = ", ".join(map(flag_of, names_of(resumable=True)))
            raise UserError(f"--resume goes on as the run began, and goes with no other flag than {may}")
        return resumed_config(resume, options)
    check_stage(stage, run, vqvae)
    source = run if stage in ("prior", "refiner") else vqvae
    config = copied_config(source, stage, preset, options) if source is not None else new_config(preset, options)
    if "prior_width" in options and "prior_vertical_width" not in options:
        config["prior_vertical_width"] = None  # that was another width's
    if config["prior_vertical_width"] is None:
        config["prior_vertical_width"] = config["prior_width"] // 2
    config["stages"] = {
        "vqvae": "finished" if source else "wanted",
        "prior": {"vqvae": "not wanted", "refiner": "finished"}.get(stage, "wanted"),
        "refiner": "wanted" if stage != "vqvae" and config["refiner_steps"] else "not wanted",
    }
    folder = run_folder(run or f"{config['preset']}-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    if config["distribute"] == "multiworker" and run is None:
        raise UserError("--distribute multiworker needs --run: all workers must know the run folder")
    if stage not in ("prior", "refiner"):
        refuse_taken(folder)  # so do all workers, for the chief makes the folder when it has met them
    config["finished"] = False
    return folder, config


def check_stage(stage, run, vqvae):
    """Raise a UserError where --stage, --run and --vqvae contradict each other."""
    if stage in ("prior", "refiner") and run is None:
        raise UserError(
            f"--stage {stage} needs --run: the run whose {'VQ-VAE' if stage == 'prior' else 'prior'} is done"
        )
    if stage == "vqvae" and vqvae is not None:
        raise UserError("--stage vqvae and --vqvae contradict each other: leave one out")
    if stage in ("prior", "refiner") and vqvae is not None:
        raise UserError(f"--stage {stage} goes on in --run itself: leave out --vqvae, or leave out --stage")


def new_config(preset, options):
    """The config of a run that starts from nothing."""
    preset = preset or ("default" if "data" in options else "demo")
    config = {**preset_values(preset), **options, "preset": preset, "source": None}
    if "detail_weight" in options and config["loss"] != "pyramid":
        raise UserError("--detail-weight is of the pyramid error: leave it out, or choose --loss pyramid")
    if config["num_codes"] ** config["code_depth"] > 2**31:
        raise UserError(
            f"{config['code_depth']} codebooks of {config['num_codes']} codes are more than a whole number of 32 "
            "bits has room for: give a smaller --code-depth or --num-codes"
        )
    if config["data"] is not None:
        check_folder(config["data"])
    config["image_size"] = list(config["image_size"]) if config["image_size"] else None
    return config


def copied_config(source, stage, preset, options):
    """The config of a run whose VQ-VAE, and its data, are those of the run ``source``, or its prior, too."""
    folder, config = open_run(source, stage="prior" if stage == "refiner" else "vqvae")
    for name in names_of(of_vqvae=True):
        if name in options and name != "data":  # which may have moved
            raise UserError(f"{flag_of(name)} cannot be changed: it is that of the VQ-VAE in {folder}")
    if stage == "prior" and config["stages"]["prior"] == "wanted":
        raise UserError(f"the prior of {folder} is begun: go on with --resume {folder}")
    if stage == "prior" and config["stages"]["prior"] == "finished":
        raise UserError(f"the run {folder} already has a prior: start a new one with --vqvae {source}")
    if stage == "refiner":
        return config_for_refiner(folder, config, options)
    config = with_defaults(config)
    if preset:
        of_prior = {
            name: value
            for name, value in preset_values(preset).items()
            if name.startswith(("prior_", "refiner_")) and name not in names_of(of_vqvae=True)
        }
        config |= {**of_prior, "preset": preset}
    config |= {"cache": None, **options, "source": str(folder)}
    check_data(folder, config)
    if stage != "prior":  # the new run lies elsewhere
        config["data"] = str(find_beside(folder, config["data"]))
    return {name: value for name, value in config.items() if name not in OUTCOMES}


def config_for_refiner(folder, config, options):
    """The config of a finished run that is given a refiner."""
    for name in options:
        if name.startswith("prior_"):
            raise UserError(f"{flag_of(name)} cannot be changed: it is that of the prior in {folder}")
    state = config["stages"].get("refiner")
    if state == "wanted":
        raise UserError(f"the refiner of {folder} is begun: go on with --resume {folder}")
    if state == "finished":
        raise UserError(f"the run {folder} already has a refiner: start a new one with --vqvae {folder}")
    usual = preset_values(config["preset"] if config["preset"] in PRESETS else "default")["refiner_steps"]
    config = with_defaults(config) | {"refiner_steps": usual} | options | {"source": str(folder)}
    if not config["refiner_steps"]:
        raise UserError("--stage refiner takes steps: give --refiner-steps")
    check_data(folder, config)
    return {name: value for name, value in config.items() if name not in OUTCOMES}


def resumed_config(resume, options):
    """The folder and config of the run that --resume names, with the options that may change."""
    folder = run_folder(resume)
    if not (folder / "config.json").is_file():
        raise UserError(f"there is no run at {folder}: start one with {shell('python', 'train.py', '--run', resume)}")
    config = read_config(folder)
    if "detail_weight" not in config and config["stages"]["vqvae"] == "wanted":
        raise UserError(
            f"{folder} was begun by an earlier version, with another loss: finish it with that version, or "
            "start anew with another --run"
        )
    config = with_defaults(config) | options  # the data may have moved; their fingerprint decides
    if not is_finished(config):
        check_data(folder, config)
    return folder, config


def refuse_taken(folder):
    """Raise a UserError unless ``folder`` is new or empty, and can be written."""
    if folder.is_dir() and any(folder.iterdir()):
        config = read_config(folder) if (folder / "config.json").is_file() else None
        if config is not None and ("wanted" in config["stages"].values() or "validation" not in config):
            raise UserError(
                f"{folder} is an unfinished run and is left alone: go on with --resume {folder}, or choose "
                "another name with --run"
            )
        state = "is not a run" if config is None else "is a finished run"
        raise UserError(f"{folder} {state} and is left alone: choose another name with --run, or remove it")
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"the run folder {folder} cannot be written: choose another with --run")


def is_finished(config):
    """Whether a run has been trained and measured."""
    return "validation" in config and "wanted" not in config["stages"].values()


def check_batch_size(batch_size, distribute, replicas):
    """Raise a UserError unless the batch can be cut into equal parts, and say how it is."""
    if batch_size % replicas:
        raise UserError(
            f"--batch-size {batch_size} cannot be shared evenly by {replicas} devices: choose a multiple of {replicas}"
        )
    if distribute != "none":
        print(f"{replicas} devices, {batch_size // replicas} slices of each batch of {batch_size} on each")


# ---- config → run folder ------------------------------------------------------------------------


def plan_run(tf, config, box, training_slices, dry_run):
    """Resolve what ``auto`` is and tell device and sizes, before anything is written; with ``dry_run`` the time, too.

    Args:
        training_slices: how many slices there are to train on.
    """
    import modules
    from training.optimisation import build_prior, build_vqvae
    from training.refining import build_refining
    from training.timing import choose_convolution, choose_precision, estimate_time

    try:
        modules.choose_dilations(
            [side // config["prior_patch"] for side in config["code_grid"]], config["prior_layers"]
        )
    except ValueError as error:
        raise UserError(f"{error}: raise --prior-layers") from None
    config["precision_resolved"] = choose_precision(tf, config, box)
    config["prior_convolution_resolved"] = choose_convolution(tf, config, box)
    tell_device(tf, config)
    vqvae = build_vqvae(config, box, config["precision_resolved"])
    prior = build_prior(config, config["precision_resolved"])
    refining = build_refining(config, box, config["precision_resolved"]) if config["refiner_steps"] else None
    describe(config, vqvae, prior, refining)
    if dry_run:
        print(json.dumps(config, indent=2))
        estimate_time(tf, config, vqvae, prior, refining, box, training_slices)


def tell_device(tf, config):
    """Say what trains, and note it in the config: a list, for a run can go on elsewhere."""
    from training.device import device_name

    name, devices = device_name(tf), config.setdefault("devices", [])
    if name not in devices[-1:]:
        devices.append(name)
    print(f"training on {name}, {config['precision_resolved']}")


def describe(config, vqvae, prior, refining=None):
    """Print the sizes that follow from the config, and note them in it."""
    import math

    height, width = config["code_grid"]
    depth = config["code_depth"]
    bits = height * width * depth * math.log2(config["num_codes"])
    up, sideways = prior.receptive_field
    config.update(
        bits_per_image=bits,
        receptive_field=[up, sideways],
        vqvae_parameters=vqvae.count_params(),
        prior_parameters=prior.count_params(),
        refiner_parameters=refining.refiner.count_params() if refining else 0,
    )
    print(
        f"frame {config['frame'][1]}x{config['frame'][0]}, brain box {config['crop_box'][3]}x"
        f"{config['crop_box'][2]}, code grid {width}x{height} of {f'{depth} times ' * (depth > 1)}"
        f"{config['num_codes']} codes: "
        f"{bits:.0f} bits per image; {vqvae.count_params():,} + {prior.count_params():,} + "
        f"{config['refiner_parameters']:,} parameters; "
        f"receptive field {up} rows up, {sideways} columns to each side"
    )


def begin_run(folder, config, slices):
    """Make the run folder, whole at once: config.json and slices.csv exist before the first step."""
    config.update(environment())
    source = Path(config["source"]) if config["source"] else None
    if source == folder:
        save_json(folder / "config.json", config)
        return
    with new_folder(folder, "--run") as unfinished:
        slices.to_csv(unfinished / "slices.csv", index=False)
        for name in ("vqvae.keras", "history_vqvae.csv", "sharpening.json") if source else ():
            if (source / name).is_file():  # earlier versions sharpened nothing
                shutil.copy2(source / name, unfinished / name)
        save_json(unfinished / "config.json", config)


def environment():
    """Versions, machine, arithmetic, date and commit: what another lab needs to repeat a run."""
    import tensorflow as tf

    return {
        "versions": {"this code": version(), "python": platform.python_version(), **package_versions(PACKAGES)},
        "machine": {"processor": processor(), "cores": cores()},
        "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),  # or 10 bits for float32 on a GPU
        "format": CONFIG_FORMAT,
        "date": f"{datetime.date.today()}",
        "git_commit": git_commit(),
    }


# ---- trouble on the way -------------------------------------------------------------------------


@contextmanager
def readable_errors(tf, folder):
    """A full disk, a read-only folder or a lost worker as one sentence that says how to go on."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read the output is gone; the disk is not to blame
    except OSError as error:
        raise unwritable(folder, error.filename or folder, error.strerror or error) from None
    except tf.errors.OpError as error:
        for reason in ("No space left on device", "Read-only file system", "Permission denied"):
            if reason in str(error):  # of TensorBoard's files
                raise unwritable(folder, folder, reason) from None
        if "ollective" in str(error):
            raise UserError(
                f"another worker was lost; the last good checkpoint is {last_good(folder)}: start all "
                f"workers again with --resume {folder}"
            ) from None
        raise


def unwritable(folder, path, reason):
    """The UserError for a file that cannot be written."""
    return UserError(
        f"{path} cannot be written ({reason}); the last good checkpoint is {last_good(folder)}: mend "
        f"that, then {shell('python', 'train.py', '--resume', folder)}"
    )
