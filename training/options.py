"""Every option of a training, defined once: name, type, range, default of each preset, help, what it may change.

Flags, ``--help``, config.json and its checks, the table in docs/settings.md and the model card derive from ``Options``.
Importing this module loads nothing heavy.
"""

from dataclasses import dataclass, field, fields

from utils import number

STAGES = ("vqvae", "prior", "refiner")  # in their order
PRESETS = {
    "smoke": "a minute, to see that everything works; its pictures are blobs",
    "demo": "the simulated demo cohort in about ten minutes on two cores",
    "default": "real slices in about an hour on two cores",
    "large": "wider nets, for about an hour of one GPU by arithmetic; not tried",
    "paper": "as published: van den Oord et al. 2017, §4.1, and 2016, §3.3, with our layers and schedule; not tried",
}


def option(
    default,
    help,
    group,
    *,
    within=None,
    choices=None,
    metavar=None,
    none=None,
    flag=None,
    hidden=False,
    needed=False,
    of_vqvae=False,
    resumable=False,
    older=None,
    **presets,
):
    """A field of ``Options``.

    Args:
        default: its value in the preset default, and in every other that ``presets`` does not name.
        group: the heading of its flag in ``--help``.
        within: (least, most) of a number.
        none: what it means when it is not set, for options that need not be.
        flag: the name of its flag, where it is not that of the option.
        hidden: whether it is in config.json alone.
        needed: whether a config.json without it is refused; older ones may lack the others.
        of_vqvae: whether it belongs to the VQ-VAE and its data, and so is fixed once that is trained.
        resumable: whether it may be changed when a run is resumed.
        older: its value in runs of before there was the option, where it is not that of the preset default.
        presets: its values in other presets.
    """
    return field(
        default=default,
        metadata=dict(
            help=help,
            group=group,
            within=within,
            choices=choices,
            metavar=metavar,
            none=none,
            flag=flag,
            hidden=hidden,
            needed=needed,
            of_vqvae=of_vqvae,
            resumable=resumable,
            older=older,
            presets=presets,
        ),
    )


DATA, RUN, BOTH = "data", "run", "optimisation (all stages)"
VQVAE, PRIOR, REFINER = "VQ-VAE (stage 1)", "prior (stage 2)", "refiner (stage 3)"
COUNT = (1, 10**9)


@dataclass(frozen=True)
class Options:
    """The options of a training, with the values of the preset default."""

    data: str = option(
        None, "folder of slices", DATA, metavar="DIR", none="the simulated demo cohort", of_vqvae=True, resumable=True
    )
    metadata: str = option(
        None,
        "ADNI search CSV that tells which images are one person's",
        DATA,
        metavar="CSV",
        none="image ids are people",
        of_vqvae=True,
    )
    subject_pattern: str = option(
        None,
        "how a name, or the path below the data, tells its (?P<subject>…) and (?P<slice>…)",
        DATA,
        metavar="REGEX",
        none="123_45.png: person 123, slice 45",
        of_vqvae=True,
    )
    allow_overlap: bool = option(
        False, "go on although the folders share people between train and test", DATA, of_vqvae=True
    )
    image_size: tuple = option(
        None,
        "height and width in pixels",
        DATA,
        within=(16, 4096),
        metavar=("H", "W"),
        none="the data's own",
        of_vqvae=True,
        smoke=(60, 64),
        demo=(120, 128),
    )
    crop: bool = option(
        True,
        "train on the whole frame, not on the box that holds the training people's brains",
        DATA,
        flag="--no-crop",
        of_vqvae=True,
    )
    augment: float = option(
        0.8,
        "share of slices that the VQ-VAE sees moved and brightened",
        DATA,
        within=(0, 1),
        metavar="SHARE",
        paper=0.0,
    )
    flip: bool = option(False, "augment by left-right flips too (they erase laterality)", DATA)

    checkpoint_minutes: float = option(
        5.0, "how often the whole state is saved", RUN, within=(0, 10**6), metavar="MINUTES", resumable=True
    )
    seed: int = option(0, "of everything random", RUN, within=(0, 2**31 - 1), metavar="N", needed=True)
    precision: str = option(
        "auto",
        "auto times bfloat16 where it could be faster",
        RUN,
        smoke="float32",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    deterministic: bool = option(
        True, "let kernels sum in any order: a run can then not be repeated bit for bit", RUN, flag="--nondeterministic"
    )
    distribute: str = option(
        "none",
        "train on all GPUs of this machine, or with the processes that TF_CONFIG or Slurm names",
        RUN,
        choices=("none", "mirrored", "multiworker"),
        resumable=True,
    )
    cache: str = option(
        None,
        "folder for a file of decoded slices when memory is short for them, best on a fast disk",
        RUN,
        metavar="DIR",
        none="beside the run",
        resumable=True,
    )

    downsample: int = option(
        4, "pixels per code, each way", VQVAE, choices=(4, 8, 16), needed=True, of_vqvae=True, demo=8
    )
    num_codes: int = option(
        256,
        "codes in the codebook",
        VQVAE,
        within=(2, 32767),
        metavar="K",
        needed=True,
        of_vqvae=True,
        smoke=32,
        demo=128,
        paper=512,
    )
    code_depth: int = option(
        1,
        "codebooks, each of what the ones before it leave: a code of the grid is one of each",
        VQVAE,
        choices=(1, 2, 3, 4),
        of_vqvae=True,
        older=1,
    )
    code_dim: int = option(
        16, "dimension of a code", VQVAE, within=(1, 1024), metavar="D", needed=True, of_vqvae=True, smoke=8, paper=64
    )
    commitment_cost: float = option(
        0.25, "how firmly the encoder is held to its codes", VQVAE, within=(0, 1000), metavar="β", of_vqvae=True
    )
    gradient_codebook: bool = option(
        False, "train the codebook by gradients, not by moving averages", VQVAE, of_vqvae=True, paper=True
    )
    loss: str = option(
        "pyramid",
        "reconstruction error: pyramid keeps edges and detail; squared is the paper's",
        VQVAE,
        choices=("pyramid", "squared"),
        of_vqvae=True,
        paper="squared",
    )
    detail_weight: float = option(
        0.0,
        "of the strength of the finest detail in the pyramid error, which alone has it: for coarse grids of codes, "
        "where it makes crisper folds",
        VQVAE,
        within=(0, 1000),
        metavar="WEIGHT",
        of_vqvae=True,
        demo=1.0,
    )
    vqvae_width: int = option(
        64,
        "channels at 1/4 resolution",
        VQVAE,
        within=(8, 2048),
        metavar="C",
        needed=True,
        of_vqvae=True,
        smoke=16,
        large=128,
        paper=256,
        demo=32,
    )
    residual_blocks: int = option(
        2, "per resolution", VQVAE, within=(0, 64), metavar="N", of_vqvae=True, smoke=1, large=3
    )
    vqvae_steps: int = option(
        4000,
        "optimizer steps",
        VQVAE,
        within=COUNT,
        metavar="N",
        needed=True,
        of_vqvae=True,
        smoke=40,
        demo=1600,
        large=20000,
        paper=250000,
    )

    prior_layers: int = option(
        12, "gated layers", PRIOR, within=(2, 256), metavar="N", needed=True, smoke=5, demo=10, large=16, paper=20
    )
    prior_width: int = option(
        96, "channels", PRIOR, within=(4, 4096), metavar="C", needed=True, smoke=16, demo=64, large=256, paper=384
    )
    prior_vertical_width: int = option(
        None,
        "channels of its vertical stack",
        PRIOR,
        within=(2, 4096),
        metavar="C",
        none="half of --prior-width",
        paper=384,
    )
    prior_patch: int = option(
        2,
        "codes along each side of the cells that it goes over; those of a cell are drawn by its head, one by one",
        PRIOR,
        choices=(1, 2, 4),
        of_vqvae=True,
        older=1,
        demo=1,
        paper=1,
    )
    prior_levels: int = option(
        2,
        "2: it draws a coarse grid first, one code for 16x16 pixels, for shape",
        PRIOR,
        choices=(1, 2),
        older=1,
        paper=1,
        demo=1,
    )
    prior_slices_below: int = option(
        2,
        "how many of the slices below in the same scan it is told: with two it sees where an edge is going",
        PRIOR,
        choices=(0, 1, 2, 3),
        older=0,
        paper=0,
    )
    prior_told: float = option(
        0.6,
        "share of slices that training tells it those below of; of the others it learns to draw single slices",
        PRIOR,
        within=(0, 1),
        metavar="SHARE",
        older=0.7,
        demo=0.7,
    )
    prior_convolution: str = option(
        "auto",
        "how it convolves, to the same end: shifted, as one product, can be faster on a GPU, and auto times it there",
        PRIOR,
        choices=("auto", "dilated", "shifted"),
        older="dilated",
        smoke="dilated",
    )
    prior_augment: float = option(
        1.0,
        "the same for the prior, turned and scaled, too: slices as they are would be learnt by heart",
        PRIOR,
        within=(0, 1),
        metavar="SHARE",
        older=0.8,
        demo=0.8,
        paper=0.0,
    )
    prior_dropout: float = option(
        0.2,
        "share of channels dropped in training",
        PRIOR,
        within=(0, 0.9),
        metavar="P",
        smoke=0.1,
        demo=0.1,
        paper=0.0,
    )
    prior_steps: int = option(
        4000,
        "optimizer steps",
        PRIOR,
        within=COUNT,
        metavar="N",
        needed=True,
        smoke=40,
        demo=3000,
        large=20000,
        paper=200000,
    )

    refiner_steps: int = option(
        1500,
        "optimizer steps; 0 for none: what is drawn is then sharpened only",
        REFINER,
        within=(0, 10**9),
        metavar="N",
        older=0,
        smoke=20,
        demo=600,
        large=5000,
        paper=0,
    )

    batch_size: int = option(
        8, "slices per step, of all devices", BOTH, within=(1, 4096), metavar="N", needed=True, large=32, paper=128
    )
    learning_rate: float = option(2e-3, "peak of Adam's", BOTH, within=(1e-8, 1), metavar="RATE", paper=2e-4)
    evaluations: int = option(
        12,
        "looks at validation people in each stage",
        BOTH,
        within=COUNT,
        hidden=True,
        needed=True,
        smoke=2,
        demo=6,
        large=40,
        paper=100,
    )
    slice_limit: int = option(
        None, "slices of each split at most", DATA, within=COUNT, hidden=True, none="all", smoke=64
    )
    demo_people: int = option(100, "people of the demo cohort", DATA, within=COUNT, hidden=True, smoke=20)


OPTIONS = {each.name: each for each in fields(Options)}


# ---- presets ------------------------------------------------------------------------------------


def preset_values(preset):
    """The value of every option in a preset: a dict in the order of ``Options``."""
    return {name: each.metadata["presets"].get(preset, each.default) for name, each in OPTIONS.items()}


def with_defaults(config):
    """A config with the options that older runs lack, as the preset default has them."""
    older = {name: each.metadata["older"] for name, each in OPTIONS.items() if each.metadata["older"] is not None}
    return preset_values("default") | older | config


def share_augmented(config, stage):
    """The share of slices that a stage, "vqvae" or "prior", sees augmented."""
    return config["prior_augment" if stage == "prior" else "augment"]


def names_of(**what):
    """The names of the options whose metadata are so: names_of(resumable=True)."""
    return [name for name, each in OPTIONS.items() if all(each.metadata[key] == value for key, value in what.items())]


# ---- flags --------------------------------------------------------------------------------------


def flag_of(name):
    """num_codes -> --num-codes."""
    return OPTIONS[name].metadata["flag"] or f"--{name.replace('_', '-')}"


def add_option_flags(parser, groups):
    """Add a flag for every option that has one; ``groups`` are the parser's argument groups by heading, to add to."""
    for name, each in OPTIONS.items():
        about = each.metadata
        if about["hidden"]:
            continue
        if about["group"] not in groups:
            groups[about["group"]] = parser.add_argument_group(about["group"])
        if each.type is bool:
            details = dict(action="store_false" if each.default else "store_true", help=about["help"])
        else:
            details = dict(
                metavar=about["metavar"],
                choices=about["choices"],
                help=f"{about['help']} {defaults(name)}",
                type=value_type(name),
                nargs=2 if each.type is tuple else None,
            )
        groups[about["group"]].add_argument(flag_of(name), dest=name, default=None, **details)


def value_type(name):
    """The argparse type of an option."""
    each = OPTIONS[name]
    kind = int if each.type is tuple else each.type
    return number(kind, *each.metadata["within"]) if each.metadata["within"] else kind


def defaults(name):
    """What an option is without its flag: "(default 1024; smoke 32, demo 128)"."""
    values = {preset: preset_values(preset)[name] for preset in PRESETS}
    others = [f"{preset} {shown(name, value)}" for preset, value in values.items() if value != values["default"]]
    return f"(default {shown(name, values['default'])}{'; ' * bool(others)}{', '.join(others)})"


def shown(name, value):
    """A value of an option in words."""
    if value is None:
        return OPTIONS[name].metadata["none"]
    if isinstance(value, bool):
        return "given" if value != OPTIONS[name].default else "not given"
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else f"{value}"


# ---- checks of config.json ----------------------------------------------------------------------


def meaning(name):
    """What the value of an option must be, in words that follow "is not"."""
    each, about = OPTIONS[name], OPTIONS[name].metadata
    if about["choices"]:
        words = f"one of {', '.join(map(str, about['choices']))}"
    elif each.type is bool:
        words = "true or false"
    elif each.type is str:
        words = "text"
    elif each.type is tuple:
        words = "height and width"
    else:
        least, most = about["within"]
        words = f"a {'whole ' * (each.type is int)}number from {least} to {most}"
    return words + " or null" * (about["none"] is not None)


def fits(name, value):
    """Whether a value, as JSON has it, is one that an option can have."""
    each, about = OPTIONS[name], OPTIONS[name].metadata
    if value is None:
        return about["none"] is not None
    if about["choices"]:
        return value in about["choices"]
    if each.type in (bool, str):
        return isinstance(value, each.type)
    if each.type is tuple:
        return isinstance(value, list) and len(value) == 2 and all(_in_range(side, int, about) for side in value)
    return _in_range(value, each.type, about)


def _in_range(value, kind, about):
    """Whether a value is a number of that kind within the option's range."""
    kinds = int if kind is int else int | float
    least, most = about["within"]
    return isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most


# ---- tables -------------------------------------------------------------------------------------


def options_table():
    """All options as a Markdown table, a row each: list of lines."""
    heads = ["flag", "what it is", "default", "other presets", "fixed with the VQ-VAE", "may change on `--resume`"]
    rows = [
        [
            f"`{flag_of(name)}`",
            each.metadata["help"],
            *defaults(name)[len("(default ") : -1].partition("; ")[::2],
            "yes" * each.metadata["of_vqvae"],
            "yes" * each.metadata["resumable"],
        ]
        for name, each in OPTIONS.items()
        if not each.metadata["hidden"]
    ]
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def settings_table(config):
    """The settings of a run as a Markdown table, for its model card: list of lines."""
    rows = [
        f"| {name.replace('_', ' ')} | {shown(name, config[name])} | {each.metadata['help']} |"
        for name, each in OPTIONS.items()
        if name in config
        and each.type is not bool
        and not each.metadata["hidden"]
        and name not in ("data", "metadata", "cache")
    ]
    return ["| setting | value | what it is |", "|---|---|---|", *rows]
