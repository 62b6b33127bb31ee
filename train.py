"""Train a VQ-VAE on brain slices, then a gated PixelCNN prior on its codes: both stages in one command.

Everything a finished run consists of lies in one folder, runs/<name>/, which predict.py and evaluate.py
need and nothing else does. Without --data the embedded demo cohort of simulated people is made and used.
"""

import datetime
import json
import os
import platform
import shutil
import signal
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from utils import (
    CONFIG_FORMAT,
    Interrupted,
    Parser,
    Team,
    UserError,
    check_folder,
    checkpoints,
    cluster_task,
    finishing_step,
    git_commit,
    is_sound,
    load_checkpoint,
    load_json,
    load_models,
    locked,
    low_precision_candidate,
    new_folder,
    number,
    open_run,
    processor,
    progress,
    read_config,
    read_slices,
    run_folder,
    run_name,
    run_script,
    save_checkpoint,
    save_json,
    save_model,
    start_distributed,
    write_csv,
)

VALIDATION_SLICES = 256  # looked at during training; the closing measurement uses all of them
PATCHED_SLICES = 64  # of them, whose patches show in TensorBoard what a code stands for
AVERAGE_DECAY = 0.998
PATIENCE = 8  # evaluations without a better held-out value before a stage stops early

PRESETS = {
    "smoke": dict(image_size=(60, 64), num_codes=32, code_dim=8, detail_weight=1.0, vqvae_width=16, residual_blocks=1,
                  vqvae_steps=40, prior_steps=40, prior_layers=5, prior_width=16, batch_size=8,
                  evaluations=2, slice_limit=64, demo_people=20, precision="float32"),
    "demo": dict(image_size=(120, 128), num_codes=128, code_dim=16, detail_weight=1.0, vqvae_width=64,
                 residual_blocks=2, vqvae_steps=1100, prior_steps=2000, prior_layers=10, prior_width=96, batch_size=8,
                 evaluations=6, slice_limit=None, demo_people=100, precision="auto"),
    "default": dict(image_size=None, num_codes=1024, code_dim=16, vqvae_width=64, residual_blocks=2,
                    vqvae_steps=6500, prior_steps=3800, prior_layers=12, prior_width=96, prior_dropout=0.2,
                    batch_size=8, evaluations=12, slice_limit=None, demo_people=100, precision="auto"),
    # The default with a GPU's width, codes and time: about a day of one, by the README's reckoning; not tried.
    "large": dict(image_size=None, num_codes=2048, code_dim=16, vqvae_width=128, residual_blocks=3,
                  vqvae_steps=60000, prior_steps=100000, prior_layers=16, prior_width=256, prior_dropout=0.2,
                  batch_size=32, evaluations=40, slice_limit=None, demo_people=100, precision="auto"),
    # As published: van den Oord et al. 2017, §4.1, and 2016, §3.3, with our layers and schedule; not tried.
    "paper": dict(image_size=None, downsample=4, num_codes=512, code_dim=64, vqvae_width=256, residual_blocks=2,
                  loss="squared", gradient_codebook=True, learning_rate=2e-4, augment=0.0, prior_dropout=0.0,
                  vqvae_steps=250000, prior_steps=200000, prior_layers=20, prior_width=384,
                  prior_vertical_width=384, batch_size=128, evaluations=100, slice_limit=None, demo_people=100,
                  precision="auto"),
}
COMMON = dict(seed=0, downsample=8, commitment_cost=0.25, loss="pyramid", detail_weight=4.0, learning_rate=2e-3,
              augment=0.8, flip=False, gradient_codebook=False, crop=True, deterministic=True, prior_dropout=0.1,
              allow_overlap=False, metadata=None, subject_pattern=None, checkpoint_minutes=5.0, distribute="none")
DATA_FLAGS = ("data", "metadata", "subject_pattern", "image_size", "crop", "allow_overlap")
VQVAE_FLAGS = ("downsample", "num_codes", "code_dim", "commitment_cost", "gradient_codebook", "loss", "detail_weight",
               "vqvae_width", "residual_blocks", "vqvae_steps")


# ---- flags → config ---------------------------------------------------------------------------


def parse_flags(argv):
    """The flags that were given, and only those, as a dict."""
    parser = Parser(description=__doc__.split("\n\n")[0],
                    epilog="examples: python train.py --run demo\n"
                           "          python train.py --data AD_NC --run adni --dry-run\n"
                           "          python train.py --data AD_NC --run adni\n"
                           "          python train.py --resume adni")
    suppress = {"default": None}

    group = parser.add_argument_group("data")
    group.add_argument("--data", metavar="DIR", help="folder of slices (default: the simulated demo cohort)")
    group.add_argument("--metadata", metavar="CSV", help="ADNI search CSV that tells which images are one person's")
    group.add_argument("--subject-pattern", metavar="REGEX",
                       help="how a file name tells its (?P<subject>…) and (?P<slice>…)")
    group.add_argument("--allow-overlap", action="store_true", **suppress,
                       help="go on although the folders share people between train and test")
    group.add_argument("--image-size", nargs=2, type=number(int, 16, 4096), metavar=("H", "W"),
                       help="height and width in pixels (default: the data's own; smoke 60 64; demo 120 128)")
    group.add_argument("--no-crop", dest="crop", action="store_false", **suppress,
                       help="train on the whole frame, not on the box that holds the training people's brains")
    group.add_argument("--augment", type=number(float, 0, 1), metavar="SHARE",
                       help="share of training slices that are augmented (default 0.8; 0 for none)")
    group.add_argument("--flip", action="store_true", **suppress,
                       help="augment by left-right flips too (they erase laterality)")

    group = parser.add_argument_group("run")
    group.add_argument("--run", metavar="NAME", help="name under runs/, or a path (default: <preset>-<date-time>)")
    group.add_argument("--preset", choices=PRESETS, help="sizes and steps (default: demo without --data, else default)")
    group.add_argument("--stage", choices=("vqvae", "prior", "all"), default="all",
                       help="prior: go on with a --run whose VQ-VAE is done (default all)")
    group.add_argument("--vqvae", metavar="RUN", help="start a new run from a copy of this run's VQ-VAE")
    group.add_argument("--resume", metavar="RUN", help="go on with this unfinished run, as it began")
    group.add_argument("--checkpoint-minutes", type=number(float, 0, 1e6), metavar="MINUTES",
                       help="how often the whole state is saved (default: every 5 minutes)")
    group.add_argument("--seed", type=number(int, 0, 2**31 - 1), metavar="N", help="of everything random (default 0)")
    group.add_argument("--precision", choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
                       help="auto times bfloat16 where it could be faster (default auto)")
    group.add_argument("--nondeterministic", dest="deterministic", action="store_false", **suppress,
                       help="let kernels sum in any order: a run can then not be repeated bit for bit")
    group.add_argument("--distribute", choices=("none", "mirrored", "multiworker"),
                       help="train on all GPUs of this machine, or with the processes that TF_CONFIG or Slurm names "
                            "(default none)")
    group.add_argument("--dry-run", action="store_true",
                       help="print the resolved config, sizes and an estimate of the time; make no run")

    group = parser.add_argument_group("VQ-VAE (stage 1)")
    group.add_argument("--downsample", type=int, choices=(4, 8, 16), help="pixels per code, each way (default 8)")
    group.add_argument("--num-codes", type=number(int, 2, 32767), metavar="K",
                       help=f"codes in the codebook {by_preset('num_codes')}")
    group.add_argument("--code-dim", type=number(int, 1, 1024), metavar="D",
                       help=f"dimension of a code {by_preset('code_dim')}")
    group.add_argument("--commitment-cost", type=number(float, 0, 1000), metavar="β",
                       help="how firmly the encoder is held to its codes (default 0.25)")
    group.add_argument("--gradient-codebook", action="store_true", **suppress,
                       help="train the codebook by gradients, not by moving averages")
    group.add_argument("--loss", choices=("pyramid", "squared"),
                       help="reconstruction error: pyramid keeps edges and detail; squared is the paper's (default "
                            "pyramid; paper squared)")
    group.add_argument("--detail-weight", type=number(float, 0, 1000), metavar="WEIGHT",
                       help="of the strength of the finest detail in the pyramid error, which alone has it: more makes "
                            f"crisper folds, and grain where the training is short {by_preset('detail_weight')}")
    group.add_argument("--vqvae-width", type=number(int, 8, 2048), metavar="C",
                       help=f"channels at 1/4 resolution {by_preset('vqvae_width')}")
    group.add_argument("--residual-blocks", type=number(int, 0, 64), metavar="N",
                       help=f"per resolution {by_preset('residual_blocks')}")
    group.add_argument("--vqvae-steps", type=number(int, 1), metavar="N",
                       help=f"optimizer steps {by_preset('vqvae_steps')}")

    group = parser.add_argument_group("prior (stage 2)")
    group.add_argument("--prior-layers", type=number(int, 2, 256), metavar="N",
                       help=f"gated layers {by_preset('prior_layers')}")
    group.add_argument("--prior-width", type=number(int, 4, 4096), metavar="C",
                       help=f"channels {by_preset('prior_width')}")
    group.add_argument("--prior-vertical-width", type=number(int, 2, 4096), metavar="C",
                       help="channels of its vertical stack (default: half of them; paper: as many)")
    group.add_argument("--prior-dropout", type=number(float, 0, 0.9), metavar="P",
                       help=f"share of channels dropped in training {by_preset('prior_dropout')}")
    group.add_argument("--prior-steps", type=number(int, 1), metavar="N",
                       help=f"optimizer steps {by_preset('prior_steps')}")

    group = parser.add_argument_group("optimisation (both stages)")
    group.add_argument("--batch-size", type=number(int, 1, 4096), metavar="N",
                       help=f"slices per step, of all devices {by_preset('batch_size')}")
    group.add_argument("--learning-rate", type=number(float, 1e-8, 1), metavar="RATE",
                       help=f"peak of Adam's {by_preset('learning_rate')}")
    return {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}


def by_preset(name):
    """What an option is without its flag: "(default 1024; smoke 32, demo 128)"."""
    values = {preset: (COMMON | options)[name] for preset, options in PRESETS.items()}
    others = ", ".join(f"{preset} {value}" for preset, value in values.items() if value != values["default"])
    return f"(default {values['default']}{'; ' * bool(others)}{others})"


def resolve_config(flags):
    """Preset, defaults and flags -> one config; or that of the run which is continued or copied.

    Raises:
        UserError: flags that contradict each other, or a run folder that may not be used.
    """
    flags = dict(flags)
    stage, source_name, run = flags.pop("stage"), flags.pop("vqvae", None), flags.pop("run", None)
    dry_run = flags.pop("dry_run", False)
    if "resume" in flags:
        return resumed_config(flags | ({"dry_run": True} if dry_run else {}), stage, source_name, run)
    if stage == "prior" and run is None:
        raise UserError("--stage prior needs --run: the run whose VQ-VAE is done")
    if stage == "vqvae" and source_name is not None:
        raise UserError("--stage vqvae and --vqvae contradict each other: leave one out")
    if stage == "prior" and source_name is not None:
        raise UserError("--stage prior goes on in --run itself: leave out --vqvae, or leave out --stage")
    source = run if stage == "prior" else source_name
    if source is not None:
        folder, config = open_run(source, stage="vqvae")
        kept = [name for name in (*DATA_FLAGS, *VQVAE_FLAGS) if name in flags]
        if kept:
            flag = kept[0].replace("_", "-").replace("crop", "no-crop")
            raise UserError(f"--{flag} cannot be changed: it is that of the VQ-VAE in {folder}")
        if stage == "prior" and config["stages"]["prior"] == "wanted":
            raise UserError(f"the prior of {folder} is begun: go on with --resume {folder}")
        if stage == "prior" and config["stages"]["prior"] == "finished":
            raise UserError(f"the run {folder} already has a prior: start a new one with --vqvae {source}")
        preset = flags.get("preset", config["preset"])
        chosen = {name: value for name, value in PRESETS[preset].items()
                  if "preset" in flags and name.startswith("prior_")}
        config = {**COMMON, **config, **chosen, **flags, "source": str(folder)}
        for outcome in ("validation", "seconds"):
            config.pop(outcome, None)
    else:
        preset = flags.get("preset", "default" if "data" in flags else "demo")
        config = {**COMMON, **PRESETS[preset], **flags, "preset": preset, "source": None}
        if "detail_weight" in flags and config["loss"] != "pyramid":
            raise UserError("--detail-weight is of the pyramid error: leave it out, or choose --loss pyramid")
        config.setdefault("data", None)
        if config["data"] is not None:
            check_folder(config["data"])
        config["image_size"] = list(config["image_size"]) if config["image_size"] else None
    if "prior_width" in flags and "prior_vertical_width" not in flags:
        config.pop("prior_vertical_width", None)  # another width's
    config.setdefault("prior_vertical_width", config["prior_width"] // 2)
    config["stages"] = {"vqvae": "finished" if source else "wanted",
                        "prior": "wanted" if stage != "vqvae" else "not wanted"}
    name = run or f"{config['preset']}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    folder = run_folder(name)
    if config["distribute"] == "multiworker" and run is None:
        raise UserError("--distribute multiworker needs --run: all workers must know the run folder")
    if stage != "prior":
        refuse_taken(folder)  # so do all workers, for the chief makes the folder when it has met them
    config["finished"] = False
    return folder, config


def resumed_config(flags, stage, source_name, run):
    """The folder and config of the run that --resume names."""
    name = flags.pop("resume")
    changed = {key: flags.pop(key) for key in ("checkpoint_minutes", "distribute") if key in flags}
    if flags or stage != "all" or source_name or run:
        raise UserError("--resume goes on as the run began, and goes with no other flag than --checkpoint-minutes and "
                        "--distribute")
    folder = run_folder(name)
    if not (folder / "config.json").is_file():
        raise UserError(f"there is no run at {folder}: start one with python train.py --run {name}")
    config = read_config(folder)
    if "detail_weight" not in config and config["stages"]["vqvae"] == "wanted":
        raise UserError(f"{folder} was begun by an earlier version, with another loss: finish it with that version, or "
                        "start anew with another --run")
    return folder, COMMON | config | changed


def refuse_taken(folder):
    """Raise a UserError unless ``folder`` is new or empty, and can be written."""
    if folder.is_dir() and any(folder.iterdir()):
        config = read_config(folder) if (folder / "config.json").is_file() else None
        if config is not None and ("wanted" in config["stages"].values() or "validation" not in config):
            raise UserError(f"{folder} is an unfinished run and is left alone: go on with --resume {folder}, or choose "
                            "another name with --run")
        state = "is not a run" if config is None else "is a finished run"
        raise UserError(f"{folder} {state} and is left alone: choose another name with --run, or remove it")
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"the run folder {folder} cannot be written: choose another with --run")


# ---- data -------------------------------------------------------------------------------------


def prepare_data(config, known=None):
    """Find, split, check and load the slices; complete the config with what was found.

    Args:
        known: folder of the run whose slices.csv and config hold all that already.

    Returns:
        slices: DataFrame (path, subject, slice, position, label, split) of every usable slice.
        parts: for train and validation, a dict of images uint8 (N, H, W, 1), their rows of slices, and
            columns, the conditions of the prior (label and position, (N,) int32).
    """
    import numpy as np

    import dataset
    from metrics import condition_ids, evenly

    if config["data"] is None:
        config["data"] = make_demo(config["demo_people"], config["image_size"])
    manifest = Path(config["data"]) / "manifest.json"
    config["simulated"] = manifest.is_file() and bool(load_json(manifest).get("simulated"))
    slices = read_slices(Path(known)) if known else find_people(config)
    while True:  # again without those that cannot be used, so that whoever reads slices.csv picks the same
        used = np.concatenate([evenly(np.flatnonzero(slices["split"] == split), config["slice_limit"])
                               for split in ("train", "validation")])  # train, then validation
        loaded = dataset.load_images(config["data"], slices["path"].iloc[used].tolist(), config["image_size"])
        used_rows = slices.iloc[used]
        if loaded.usable.all():
            break
        slices = slices.drop(index=slices.index[used[~loaded.usable]])
    dataset.warn_of_leakage(used_rows, loaded)
    parts, start = {}, 0
    for split in ("train", "validation"):
        rows = used_rows[used_rows["split"] == split]
        if rows.empty:
            raise UserError(f"no {split} person is left in {config['data']}: at least one label needs two people")
        parts[split] = {"images": loaded.images[start: start + len(rows)], "slices": rows,
                        "brain_boxes": loaded.brain_boxes[start: start + len(rows)]}
        start += len(rows)
    if not known:
        config.update(describe_data(config, slices, parts["train"]), data_fingerprint=loaded.fingerprint)
    elif config["data_fingerprint"] != loaded.fingerprint:
        raise UserError(f"the slices in {config['data']} are not those that {known} was trained on: put them back, or "
                        "start a new run")
    for part in parts.values():
        part["columns"] = condition_ids(part["slices"], config["labels"])
    outside = dataset.outside(loaded.brain_boxes, dataset.Box(*config["crop_box"])).sum()
    if outside:
        print(f"{outside} of {len(used_rows)} slices have brain outside the crop box, which is cut off "
              "(--no-crop keeps it)")
    return slices, parts


def make_demo(people, image_size):
    """Make the demo cohort under data/, unless it is there already; returns its folder as a string."""
    import cohort

    print("no --data: the demo cohort; its people are simulated, and nothing about disease follows from them")
    height, width = image_size or (240, 256)
    folder = Path("data") / f"demo-{people}-{height}x{width}-seed0"
    return str(cohort.make_cohort(folder, people, 0, (height, width)))


def find_people(config):
    """The index of the slices, split by person."""
    import dataset

    slices = dataset.find_slices(config["data"], config["subject_pattern"], config["metadata"])
    if config["metadata"] is None and not config["simulated"]:
        print("people = image ids; repeat visits of one person may straddle splits (--metadata groups them)")
    return dataset.split_by_subject(slices, config["seed"], allow_overlap=config["allow_overlap"])


def describe_data(config, slices, training):
    """What the models need to know of the data: frame, crop box, code grid, labels, positions."""
    import dataset

    frame, downsample = training["images"].shape[1:3], config["downsample"]
    box = (dataset.brain_crop(training["brain_boxes"], frame, downsample) if config["crop"]
           else dataset.whole_frame(frame, downsample))
    return {"frame": [int(side) for side in frame], "crop_box": [int(side) for side in box],
            "code_grid": [box.height // downsample, box.width // downsample],
            "labels": sorted(set(slices["label"][slices["split"] == "train"])),
            "num_positions": int(slices["position"].max()) + 1}


# ---- training ---------------------------------------------------------------------------------


def choose_precision(tf, config, box):
    """Resolve --precision auto: bfloat16 only where a step of it was timed ≥ 1.3 times faster."""
    if config["precision"] != "auto":
        return config["precision"]
    candidate = low_precision_candidate(tf)
    if candidate is None:
        return "float32"
    seconds = time_vqvae_steps(tf, config, box, ("float32", candidate))
    ratio = seconds["float32"] / seconds[candidate]
    chosen = candidate if ratio >= 1.3 else "float32"
    print(f"precision: {chosen} ({candidate} is {ratio:.2f} times as fast as float32 here)")
    return chosen


def time_vqvae_steps(tf, config, box, precisions, turns=4):
    """precision -> least seconds of a stage-1 step on random images; they take turns, for other work comes and goes."""
    batch = {"image": tf.random.stateless_uniform((config["batch_size"], box.height, box.width, 1), (0, 0))}
    steps = {precision: tf.function(build_vqvae(config, box, precision).train_step) for precision in precisions}
    taken = {precision: [] for precision in precisions}
    for turn in range(turns):
        for precision, step in steps.items():
            seconds = time_steps(lambda step=step: step(batch)["loss"].numpy(), 1)
            if turn:  # the first one traces
                taken[precision].append(seconds)
    return {precision: min(values) for precision, values in taken.items()}


def time_steps(step, steps):
    """The least seconds of ``steps`` calls."""
    taken = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return min(taken)


def build_vqvae(config, box, precision):
    """A compiled VQ-VAE of this config, with weights that depend on the seed alone."""
    import keras

    import modules

    keras.utils.set_random_seed(config["seed"])
    vqvae = modules.VQVAE((box.height, box.width, 1), config["downsample"], config["num_codes"],
                          config["code_dim"], config["commitment_cost"], not config["gradient_codebook"],
                          config["vqvae_width"], config["residual_blocks"], config["seed"], config["loss"],
                          config["detail_weight"], name="vqvae", dtype=precision)
    vqvae.planned_steps = config["vqvae_steps"]
    vqvae.compile(optimizer=modules.optimizer(config["learning_rate"], config["vqvae_steps"]))
    return vqvae


def build_prior(config, precision, vqvae_sha256=""):
    """A compiled prior of this config, with weights that depend on the seed alone."""
    import keras

    import modules

    keras.utils.set_random_seed(config["seed"] + 1)
    prior = modules.GatedPixelCNN(config["code_grid"], config["num_codes"], len(config["labels"]),
                                  config["num_positions"], num_layers=config["prior_layers"],
                                  width=config["prior_width"], vertical_width=config.get("prior_vertical_width"),
                                  dropout=config["prior_dropout"], seed=config["seed"], vqvae_sha256=vqvae_sha256,
                                  name="prior", dtype=precision)
    prior.compile(optimizer=modules.optimizer(config["learning_rate"], config["prior_steps"]))
    return prior


class Stage:
    """The training loop that both stages share: steps, evaluations, the best weights, logs, checkpoints.

    Everything that the next step depends on is in a checkpoint, and everything drawn is a function of the
    step: a run that was stopped and resumed ends in the same bytes as one that was not. All processes of the
    team go through the same steps, and the chief writes. What is made in the scope of the team's strategy is made
    by all of them together, so what the chief does alone must stay outside.

    Args:
        team: the Team that trains.
        name: "vqvae" or "prior": the files are <name>.keras, history_<name>.csv, tensorboard/<name>.
        step: batch -> dict of metrics of the batch; one optimizer step.
        evaluate: () -> dict of held-out metrics, of which "loss" chooses the best weights.
        show: () -> None; writes what there is to see of the model to TensorBoard.
        checkpoint_minutes: how often the state is saved.
    """

    def __init__(self, team, folder, name, model, step, evaluate, show, checkpoint_minutes):
        import modules

        self.team, self.folder, self.name, self.model = team, folder, name, model
        self.evaluate, self.show, self.checkpoint_minutes = evaluate, show, checkpoint_minutes
        with team.strategy.scope():
            self.average = modules.WeightAverage(model, AVERAGE_DECAY)
            model.optimizer.build(model.trainable_variables)
        self.state = {"step": 0, "best": None, "worse": 0, "seconds": 0.0, "history": [], "recent": []}

        def step_here(batch, stop):
            metrics = step(batch)
            self.average.update()
            return metrics | {"stop": modules.mean_over_replicas(1.0 * stop)}  # a product is on the replica's device

        @team.tf.function
        def step_everywhere(batch, stop):
            metrics = team.strategy.run(step_here, (batch, stop))
            return {key: team.local(value) for key, value in metrics.items()}

        self.step = step_everywhere

    def variables(self):
        """All that a step changes."""
        return [*self.model.variables, *self.model.optimizer.variables, *self.average.averages, self.average.updates]

    def save(self):
        """Write a checkpoint of this instant."""
        self.check_finite()
        if not self.team.chief:
            return
        save_checkpoint(self.folder / "checkpoints", self.name, self.state["step"], self.variables(), self.state)

    def check_finite(self):
        """Raise a UserError when a weight is infinite or not a number."""
        import numpy as np

        if not all(np.isfinite(weight.numpy()).all() for weight in self.model.weights):
            raise UserError(f"a weight of {self.name} is not a number after step {self.state['step']} (last good "
                            f"checkpoint: {last_good(self.folder, self.name)}): start a new run with a lower "
                            "--learning-rate")

    def restore(self):
        """Go back to the newest sound checkpoint of this stage, if there is one."""
        arrays, state = load_checkpoint(self.folder / "checkpoints", self.name)
        if state is not None:
            for variable, array in zip(self.variables(), arrays, strict=True):
                variable.assign(array)
            self.state = state
            print(f"{self.name}: going on after step {state['step']}")

    def fit(self, batches_from, steps, evaluations, batch_size):
        """Train until ``steps``; leave the best averaged weights in the model's file.

        ``batches_from`` gives the batches from a step (counted from 0) on.
        """
        self.restore()
        state, every, summary = self.state, -(-steps // evaluations), self.team.tf.summary
        writer = (summary.create_file_writer(str(self.folder / "tensorboard" / self.name)) if self.team.chief
                  else summary.create_noop_writer())
        bar = progress(total=steps * batch_size, initial=state["step"] * batch_size, unit=" slices", desc=self.name,
                       unit_scale=False)
        start, evaluating, first, held_out = time.perf_counter(), 0.0, state["step"], {}
        saved, before_stop = start, state["seconds"]
        numbers = range(first + 1, first + 1 if state["worse"] >= PATIENCE else steps + 1)
        with finishing_step() as signals:
            for step, batch in zip(numbers, batches_from(first), strict=False):
                found = self.step(batch, self.team.tf.constant(float(bool(signals))))
                metrics = {key: float(value) for key, value in found.items() if value.shape == ()}
                stop = metrics.pop("stop") > 0  # a signal reached one of the processes
                if not all(value == value and abs(value) != float("inf") for value in metrics.values()):
                    raise UserError(f"the loss of {self.name} is not a number at step {step} (last good checkpoint: "
                                    f"{last_good(self.folder, self.name)}): start a new run with a lower "
                                    "--learning-rate")
                state["step"] = step
                state["recent"].append(metrics)
                bar.update(batch_size)
                if step % 10 == 0:
                    bar.set_postfix(metrics | {f"held-out {key}": value for key, value in held_out.items()})
                if step % every == 0 or step == steps:
                    before = time.perf_counter()
                    rate = (step - first) * batch_size / (before - start - evaluating)
                    state["seconds"] = before_stop + before - start
                    held_out = self.look(writer, bar, rate)
                    evaluating += time.perf_counter() - before
                if state["worse"] >= PATIENCE:
                    bar.write(f"{self.name}: no better for {PATIENCE} evaluations, stopped early")
                    break
                if stop:
                    break
                if time.perf_counter() - saved > 60 * self.checkpoint_minutes and step < steps:
                    self.save()
                    saved = time.perf_counter()
            if state["step"] > first:
                self.save()
            self.team.wait()
        bar.close()
        writer.close()
        if signals or (state["step"] > first and stop):
            raise Interrupted((signals or [signal.SIGTERM])[0], f"{self.name} was stopped after step {state['step']} "
                              f"and saved: go on with python train.py --resume {self.folder}")

    def look(self, writer, bar, rate):
        """Evaluate the averaged weights, keep them if they are the best, and write a row of history."""
        state = self.state
        self.check_finite()
        training = {key: sum(row[key] for row in state["recent"]) / len(state["recent"]) for key in state["recent"][0]}
        self.average.swap()
        held_out = self.team.agree(self.evaluate())
        improved = state["best"] is None or held_out["loss"] < state["best"]
        if improved:
            state["best"], state["worse"] = held_out["loss"], 0
            if self.team.chief:
                save_model(self.model, self.folder / f"{self.name}.keras")
        else:
            state["worse"] += 1
        state["history"].append({
            "step": state["step"], **training, **{f"validation_{key}": value for key, value in held_out.items()},
            "slices_per_second": rate, "seconds": state["seconds"]})
        if self.team.chief:
            self.log(writer, state["history"])
        self.average.swap()
        bar.write(f"{self.name} {state['step']}: loss {training['loss']:.4f}; validation "
                  + ", ".join(f"{key} {value:.4g}" for key, value in held_out.items())
                  + f"; {rate:.1f} slices/s" + ("" if improved else " (not the best)"))
        state["recent"] = []
        return held_out

    def log(self, writer, history):
        """Write the history so far, and for TensorBoard its newest row and what the model shows."""
        write_csv(self.folder / f"history_{self.name}.csv", history)
        with writer.as_default(step=history[-1]["step"]):
            for key, value in history[-1].items():
                self.team.tf.summary.scalar(key, value)
            self.show()
        writer.flush()


def train_vqvae(team, config, folder, parts, box):
    """Stage 1."""
    import numpy as np

    import dataset
    import report
    from metrics import evenly, image_metrics, mean_by_person, value_of

    tf, train, validation = team.tf, parts["train"], thinned(parts["validation"])
    with team.strategy.scope():
        vqvae = build_vqvae(config, box, config["precision_resolved"])
    first = evenly(np.arange(len(train["images"])), 64)
    vqvae.initialise_codebook(dataset.crop(train["images"][first], box).astype("float32") / 255)
    encode, decode = tf.function(vqvae.encode), tf.function(vqvae.decode)
    batches = dataset.evaluation_batches(validation["images"], {}, 16, box)
    originals = np.concatenate([batch["image"] for batch in batches])  # (N, h, w, 1)

    def reconstructed():
        codes = [encode(batch["image"]) for batch in batches]
        return np.concatenate(codes), np.concatenate([decode(block) for block in codes])

    def evaluate():
        codes, images = reconstructed()
        rows = [image_metrics(*pair) for pair in zip(originals, images, strict=True)]
        means = mean_by_person(rows, validation["slices"]["subject"])
        return {"loss": float(vqvae.reconstruction_error(originals, images)),
                **{key: float("nan") if means[key] is None else value_of(means[key])  # None: no brain in any of them
                   for key in ("ssim", "psnr", "ssim_brain")},
                "codes_used": len(np.unique(codes)) / config["num_codes"]}

    def show():
        codes, images = reconstructed()
        tf.summary.image("originals", originals, max_outputs=8)
        tf.summary.image("reconstructions", images, max_outputs=8)
        uses = np.bincount(codes.ravel(), minlength=config["num_codes"])
        tf.summary.histogram("uses of a code over the mean", uses / uses.mean())
        report.write_projector(folder / "tensorboard" / "vqvae", vqvae.quantizer.codebook.numpy().T, uses,
                               report.code_patches(codes[:PATCHED_SLICES], images[:PATCHED_SLICES],
                                                   config["num_codes"]))

    def step(batch):
        metrics = vqvae.train_step(batch)
        squared, codes = metrics.pop("squared"), metrics.pop("codes")
        metrics["psnr"] = -10 * tf.math.log(squared) / tf.math.log(10.0)
        metrics["codes_in_batch"] = tf.cast(tf.size(tf.unique(tf.reshape(codes, [-1]))[0]), tf.float32)
        return metrics

    stage = Stage(team, folder, "vqvae", vqvae, step, evaluate, show, config["checkpoint_minutes"])
    stage.fit(training_batches(team, config, train, box, "vqvae"), config["vqvae_steps"], config["evaluations"],
              config["batch_size"])


def train_prior(team, config, folder, parts, box):
    """Stage 2, on codes of slices that are augmented and encoded afresh for every step."""
    import numpy as np

    import dataset
    from utils import file_sha256

    tf, train, validation = team.tf, parts["train"], thinned(parts["validation"])
    with team.strategy.scope():
        (vqvae,) = load_models(folder, prior=False)
        prior = build_prior(config, config["precision_resolved"], file_sha256(folder / "vqvae.keras"))
    bits_per_code = tf.function(prior.bits_per_code)
    held_out = [{**batch, "codes": vqvae.encode(batch["image"])} for batch in
                dataset.evaluation_batches(validation["images"], validation["columns"], 16, box)]
    shown = {name: np.concatenate([batch[name] for batch in held_out])[:8] for name in ("label", "position")}
    uniforms = np.random.default_rng(config["seed"]).random((len(shown["label"]), *config["code_grid"]), "float32")

    def evaluate():
        bits = [bits_per_code(batch["codes"], batch["label"], batch["position"]) for batch in held_out]
        return {"loss": float(np.concatenate(bits).mean())}

    def show():
        codes, _ = prior.sample(uniforms, shown["label"], shown["position"])
        tf.summary.image("samples", vqvae.decode(codes), max_outputs=8)

    stage = Stage(team, folder, "prior", prior,
                  lambda batch: prior.train_step({**batch, "codes": vqvae.encode(batch["image"])}),
                  evaluate, show, config["checkpoint_minutes"])
    stage.fit(training_batches(team, config, train, box, "prior"), config["prior_steps"], config["evaluations"],
              config["batch_size"])


def training_batches(team, config, train, box, purpose):
    """first step (counted from 0) -> the batches of a stage from there on, each replica's part to each."""
    import dataset

    def batches_from(first):
        def pipeline(context):
            parts = team.strategy.num_replicas_in_sync
            here = parts // context.num_input_pipelines  # replicas of this process
            return dataset.training_batches(
                train["images"], train["columns"], config["batch_size"], config["seed"], box, first, config["augment"],
                config["flip"], purpose, parts, range(context.input_pipeline_id * here,
                                                      (context.input_pipeline_id + 1) * here),
                whole_pixels=purpose == "vqvae")  # who learns to draw must not learn from resampled slices

        return team.strategy.distribute_datasets_from_function(pipeline)

    return batches_from


def thinned(part):
    """At most VALIDATION_SLICES of a part, evenly spaced."""
    import numpy as np

    from metrics import evenly

    rows = evenly(np.arange(len(part["images"])), VALIDATION_SLICES)
    return {"images": part["images"][rows], "slices": part["slices"].iloc[rows],
            "columns": {name: column[rows] for name, column in part["columns"].items()}}


# ---- the script -------------------------------------------------------------------------------


def environment():
    """Versions, machine, date and commit: what another lab needs to repeat a run."""
    import importlib.metadata as packages

    names = ("tensorflow", "keras", "tensorflow-probability", "numpy", "pandas", "scikit-image")
    return {"versions": {"python": platform.python_version(), **{name: packages.version(name) for name in names}},
            "machine": {"processor": processor(), "cores": os.cpu_count()},
            "format": CONFIG_FORMAT, "date": f"{datetime.date.today()}", "git_commit": git_commit()}


def describe(config, vqvae, prior):
    """Print the sizes that follow from the config."""
    import math

    from modules import receptive_field

    height, width = config["code_grid"]
    bits = height * width * math.log2(config["num_codes"])
    up, sideways = receptive_field([layer.dilation for layer in prior.stack])
    config.update(bits_per_image=bits, receptive_field=[up, sideways], vqvae_parameters=vqvae.count_params(),
                  prior_parameters=prior.count_params())
    print(f"frame {config['frame'][1]}x{config['frame'][0]}, brain box {config['crop_box'][3]}x"
          f"{config['crop_box'][2]}, code grid {width}x{height} of {config['num_codes']} codes: "
          f"{bits:.0f} bits per image; {vqvae.count_params():,} + {prior.count_params():,} parameters; "
          f"receptive field {up} rows up, {sideways} columns to each side")


def stage_steps(tf, config, vqvae, prior, box):
    """For each stage a call without arguments that takes one step on random images, and waits for it."""
    size = config["batch_size"]
    batch = {"image": tf.random.stateless_uniform((size, box.height, box.width, 1), (0, 0)),
             "label": tf.zeros(size, tf.int32), "position": tf.zeros(size, tf.int32),
             "augmentation": tf.zeros((size, 6))}
    steps = {"vqvae": tf.function(vqvae.train_step),
             "prior": tf.function(lambda batch: prior.train_step({**batch, "codes": vqvae.encode(batch["image"])}))}
    return {name: lambda step=step: step(batch)["loss"].numpy() for name, step in steps.items()}


def estimate_time(tf, config, vqvae, prior, box):
    """Measure a few steps of both stages and print how long the run would take."""
    total = 0.0
    for name, step in stage_steps(tf, config, vqvae, prior, box).items():
        step()
        seconds = time_steps(step, 4)
        total += seconds * config[f"{name}_steps"]
        print(f"{name}: {config['batch_size'] / seconds:.1f} slices/s, {config[f'{name}_steps']} steps in about "
              f"{seconds * config[f'{name}_steps'] / 60:.1f} minutes")
    print(f"in all about {total / 60:.1f} minutes, evaluations and early stopping aside")


def main(argv):
    """Train; see ``python train.py --help``."""
    flags = parse_flags(argv)
    folder, config = resolve_config(flags)
    dry_run, resuming = flags.get("dry_run"), "resume" in flags
    if is_finished(config):
        print(f"{folder} is finished: there is nothing to resume")
        return
    start = time.perf_counter()
    distribute = "none" if dry_run else config["distribute"]
    worker, workers = cluster_task() if distribute == "multiworker" else (0, 1)
    if workers > 1:
        print(f"worker {worker} of 0 to {workers - 1} waits for the others", flush=True)
    tf, strategy = start_distributed(config["deterministic"], distribute)
    team = Team(tf, strategy, worker, workers)
    check_batch_size(config, distribute, strategy.num_replicas_in_sync)
    import dataset
    import report
    from metrics import print_measurement

    with ExitStack() as stack:
        stack.enter_context(readable_errors(tf, folder))
        if team.chief:
            begun = (folder / "config.json").is_file()
            if begun:
                stack.enter_context(locked(folder))
                config = resolve_config(flags)[1]  # whoever held the lock may have changed it
            slices, parts = prepare_data(config, folder if resuming else config["source"])
            if not resuming:
                plan_run(tf, config, dataset.Box(*config["crop_box"]), dry_run)
                if dry_run:
                    return
                begin_run(folder, config, slices)
                if not begun:
                    stack.enter_context(locked(folder))
        team.wait()
        if not team.chief:
            if not (folder / "config.json").is_file():
                raise UserError(f"worker {worker} does not see the run folder {folder} that the chief made: it must be "
                                "on a disk that all workers share")
            config = COMMON | read_config(folder)
            parts = prepare_data(config, folder)[1]
        train_stages(team, config, folder, parts, dataset.Box(*config["crop_box"]))
        if not team.chief:
            return
        config["seconds"] = round(time.perf_counter() - start, 1)
        save_json(folder / "config.json", config)
        report.write_model_card(folder, config)
    print_measurement(config["validation"])
    print(f"finished in {config['seconds'] / 60:.1f} minutes: {folder}")
    if config["finished"]:
        print(f"next: python predict.py --run {run_name(folder)}")


def is_finished(config):
    """Whether a run has been trained and measured."""
    return "validation" in config and "wanted" not in config["stages"].values()


def check_batch_size(config, distribute, replicas):
    """Raise a UserError unless the batch can be cut into equal parts, and say how it is."""
    if config["batch_size"] % replicas:
        raise UserError(f"--batch-size {config['batch_size']} cannot be shared evenly by {replicas} devices: choose a "
                        f"multiple of {replicas}")
    if distribute != "none":
        print(f"{replicas} devices, {config['batch_size'] // replicas} slices of each batch of {config['batch_size']} "
              "on each")


def plan_run(tf, config, box, dry_run):
    """Resolve the precision and tell the sizes, before anything is written; with ``dry_run`` tell the time too."""
    import modules

    try:
        modules.choose_dilations(config["code_grid"], config["prior_layers"])
    except ValueError as error:
        raise UserError(f"{error}: raise --prior-layers") from None
    config["precision_resolved"] = choose_precision(tf, config, box)
    vqvae = build_vqvae(config, box, config["precision_resolved"])
    prior = build_prior(config, config["precision_resolved"])
    describe(config, vqvae, prior)
    if dry_run:
        print(json.dumps(config, indent=2))
        estimate_time(tf, config, vqvae, prior, box)


def begin_run(folder, config, slices):
    """Make the run folder, whole at once: config.json and slices.csv exist before the first step."""
    config.update(environment())
    source = Path(config["source"]) if config["source"] else None
    if source == folder:
        save_json(folder / "config.json", config)
        return
    with new_folder(folder) as unfinished:
        slices.to_csv(unfinished / "slices.csv", index=False)
        for name in ("vqvae.keras", "history_vqvae.csv") if source else ():
            shutil.copy2(source / name, unfinished / name)
        save_json(unfinished / "config.json", config)


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
            raise UserError(f"another worker was lost; the last good checkpoint is {last_good(folder)}: start all "
                            f"workers again with --resume {folder}") from None
        raise


def unwritable(folder, path, reason):
    """The UserError for a file that cannot be written."""
    return UserError(f"{path} cannot be written ({reason}); the last good checkpoint is {last_good(folder)}: mend "
                     f"that, then python train.py --resume {folder}")


def last_good(folder, stage=""):
    """The newest sound checkpoint, to be named in a sentence."""
    return next(filter(is_sound, checkpoints(folder / "checkpoints", stage)), "none was made yet")


def train_stages(team, config, folder, parts, box):
    """Train the stages that are wanted, and measure what came out on the validation people, all of them."""
    from metrics import measure

    for name, train_stage in (("vqvae", train_vqvae), ("prior", train_prior)):
        if config["stages"][name] == "wanted":
            train_stage(team, config, folder, parts, box)
            config["stages"][name] = "finished"
            if team.chief:
                save_json(folder / "config.json", config)
            team.wait()
    config["finished"] = config["stages"]["prior"] == "finished"
    if team.chief:
        models = load_models(folder, prior=config["finished"])
        config["validation"] = measure(models, parts["train"], parts["validation"], box, "validation")
    team.wait()


if __name__ == "__main__":
    run_script(main)
