"""What metrics.json of a run says, as tables and sentences: of the demo cohort as of the real slices."""

from experiments.filled.words import day, metric, null, number, percent, processor, table, verdict
from report.membership import attacks_on, strongest
from report.numbers import REFERENCES, value_of

STAGES = {"vqvae": "VQ-VAE", "prior": "prior", "refiner": "refiner"}
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}
SAMPLES = {  # key of a reference → its name, digits
    "two_sample_auc": ("two-sample AUC", 2),
    "two_sample_auc_shape": ("… of shape", 2),
    "two_sample_auc_texture": ("… of texture", 2),
    "detail_auc": ("AUC of fine detail alone", 2),
    "spectrum_gap": ("missing power", 2),
    "noise_ratio": ("noise in flat tissue", 2),
    "frechet": ("Fréchet distance", 2),
    "kid": ("kernel distance", 3),
    "patches": ("patch distance", 2),
    **{name: (name, 2) for name in ("precision", "recall", "density", "coverage", "diversity")},
}


def training_people(metrics):
    """How many people were trained on."""
    return next(iter(attacks_on(metrics["memorisation"]["membership"], "weights").values()))["people"]


def trained(files, run):
    """ "56 minutes on two CPU cores on 49 people"."""
    minutes, config = sum(files.minutes(run).values()), files.config(run)
    where = f"{cores(config)} CPU cores" if is_on_processor(config) else " and ".join(config["devices"])
    return f"{number(minutes, 0)} minutes on {where} on {training_people(files.metrics(run))} people"


def conditions(files, run):
    """Seed and date of an evaluation, and the machine that the run was trained on, in words."""
    metrics, config = files.metrics(run), files.config(run)
    name = processor(config["machine"]["processor"])
    machine = f"{name}, {cores(config)} cores" if is_on_processor(config) else " and ".join(config["devices"])
    return f"seed {metrics['seed']}; {day(metrics['date'])}; {machine}"


def cores(config):
    """ "two"."""
    return COUNTS.get(config["machine"]["cores"], config["machine"]["cores"])


def is_on_processor(config):
    """Whether a run was trained on no other device."""
    return config["devices"] == [config["machine"]["processor"]]


def stages(files, run):
    """The precision and the minutes that each stage of a run took, in words."""
    minutes, config = files.minutes(run), files.config(run)
    each = ", ".join(f"{STAGES[stage]} {number(took, 1)}" for stage, took in minutes.items())
    return f"{number(sum(minutes.values()), 0)} minutes ({each}) in {config['precision_resolved']}"


def split(files, run):
    """ "49 people to train on, 9 to choose the weights, 14 to test on"."""
    metrics, chosen = files.metrics(run), files.config(run)["validation"]["people"]
    return (
        f"{training_people(metrics)} people to train on, {chosen} to choose the weights, {metrics['people']} to test on"
    )


def box(files, run):
    """The crop box of a run, and its frame: "168×192 of 256×240"."""
    config = files.config(run)
    (height, width), (_, _, box_height, box_width) = config["frame"], config["crop_box"]
    return f"{box_width}×{box_height} of {width}×{height}"


def notes(files, run):
    """What a reader of an evaluation must know first: "n = 14 people: exploratory"."""
    return "; ".join(files.metrics(run)["notes"])


def looks(files, run):
    """How often test people were looked at, in words."""
    rows = files.rows(f"{run}/test_looks.csv")
    return f"{len(rows)} looks at the test people are on record, the last on {day(rows[-1]['date'].split()[0])}"


def models(files, run):
    """Reconstructions, rate, codes and prior of a run: a table."""
    metrics, config = files.metrics(run), files.config(run)
    found, rate, codes, prior = (metrics[name] for name in ("reconstruction", "rate", "codebook", "prior"))
    (height, width), depth = config["code_grid"], config.get("code_depth", 1)
    books = f"{depth} times {config['num_codes']}" if depth > 1 else config["num_codes"]
    split = metrics["split"]
    test, training = (prior[f"bits_per_code_{name}"] for name in (split, "train"))
    others = {"unigram": "unigram", "positional": "by position", "uniform": "uniform"}
    baselines = ", ".join(f"{name} {number(prior[f'{key}_bits_per_code'], 2)}" for key, name in others.items())
    brain = value_of(prior[f"bits_per_code_{split}_brain"]) / prior["positional_bits_per_code_brain"]
    rows = [
        ["SSIM, whole image / inside the brain", f"{metric(found['ssim'], 3)} / **{metric(found['ssim_brain'], 3)}**"],
        ["PSNR in dB, likewise", f"{metric(found['psnr'], 1)} / {metric(found['psnr_brain'], 1)}"],
        ["resolution, cycles/pixel", metric(found["frc_resolution"], 3)],
        [
            "overlap of tissues / of ventricles (Dice)",
            f"{metric(found['tissue_dice'], 3)} / {metric(found['ventricle_dice'], 3)}",
        ],
        ["missing power of reconstructions, which are not sharpened", metric(found["spectrum_gap"], 2)],
        [
            "bits an image",
            f"{number(rate['bits_per_image'], 0)} ({width}×{height} codes of {number(config_bits(config), 0)} bits); "
            f"{number(rate['bits_per_image_prior'], 0)} under the prior",
        ],
        [
            "codes in use",
            f"{percent(codes['used_fraction'])} of {books}, perplexity {number(codes['perplexity'], 0)}, "
            f"in the brain {number(codes['perplexity_brain'], 0)}",
        ],
        ["prior, bits per code", f"**{metric(test, 2)}**; {baselines}"],
        ["… of training people", metric(training, 2)],
        ["… over brain cells, as a share of the positional baseline", number(brain, 3)],
    ]
    return table([f"measured on {metrics['people']} {split} people", "value [95 % over people]"], rows)


def config_bits(config):
    """The bits of a code."""
    height, width = config["code_grid"]
    return config["bits_per_image"] / (height * width)


def told(files, run):
    """How many numbers of samples are told apart, a sentence."""
    metrics = files.metrics(run)
    samples = metrics["samples"]
    real, decoded = (samples[name] for name in REFERENCES)
    count = samples["slices_per_set"]
    return (
        f"{count} samples and {count} {metrics['split']} slices: against real slices **{len(real['told_apart'])} of "
        f"{real['tests']} numbers** are told apart, against reconstructions **{len(decoded['told_apart'])}**."
    )


def samples(files, run):
    """Samples against both references: a table."""
    sides = [files.metrics(run)["samples"][name] for name in REFERENCES]
    rows = [[name, *judged(sides, key, digits)] for key, (name, digits) in SAMPLES.items()]
    effects = [side["anatomy"] for side in sides]
    names = [name for name in effects[0] if name.endswith("_effect")]
    rows += [[name.replace("_effect", " (effect)").replace("_", " "), *judged(effects, name, 2)] for name in names]
    heads = [(f"against {against}", "a perfect prior", "verdict") for against, _ in REFERENCES.values()]
    return table(["", *heads[0], *heads[1]], rows)


def judged(sides, key, digits):
    """A number, its null and its verdict, of each of some dicts."""
    return [
        text
        for side in sides
        for text in (metric(side[key], digits), null(side[f"{key}_null"], digits), verdict(side[f"{key}_verdict"]))
    ]


def memorisation(files, run):
    """The search for copies, in two sentences."""
    found = files.metrics(run)["memorisation"]
    count, searched = (number(each, 0) for each in (copies(found), found["searched_samples"]))
    planted, alarms = (percent(found[key]) for key in ("planted_found", "audit_false_alarm"))
    return (
        f"{count} of {searched} samples are copies, by a search that finds {planted} of planted ones and takes "
        f"{alarms} of unseen people's slices for such. The nearest-neighbour ratio is "
        f"{number(value_of(found['nn_ratio']), 3)}, that of training people, their own slices left out, "
        f"{null(found['nn_ratio_null'], 3)}."
    )


def copies(found):
    """How many of the samples are copies, by the chapter memorisation of metrics.json."""
    return value_of(found["copies_fraction"]) * found["searched_samples"]


def attacks(files, run):
    """The attacks that tell training people: a table."""
    membership = files.metrics(run)["memorisation"]["membership"]
    rows = [
        [f"`{name}`", of, auc_of(one), percent(one["told"]), percent(one["false_alarm"])]
        for of in ("weights", "samples")
        for name, one in attacks_on(membership, of).items()
    ]
    return table(["attack", "on", "AUC [95 %]", "training people told", "at false alarms"], rows)


def auc_of(attack):
    """The AUC of an attack with its interval."""
    return metric({"value": attack["auc"], "low": attack["low"], "high": attack["high"]}, 2)


def strongest_attack(metrics, of="weights"):
    """The attack on the weights, or on the samples, with the largest AUC."""
    membership = metrics["memorisation"]["membership"]
    return membership[strongest(membership, of)]
