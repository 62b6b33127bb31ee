"""Measure a finished run, or any folder of images, on held-out people: how good, how varied, how new.

Choosing between models is done on validation people (the default). Every look at test people is appended
to the run's test_looks.csv, so that their number can be stated. A number of samples is never set against a
perfect value but against its null band: the same number with reconstructions of training people in place
of the samples, which is what a perfect prior would score.
"""

import csv
import datetime
import hashlib
import shlex
from pathlib import Path

from utils import (
    Parser,
    UserError,
    file_sha256,
    git_commit,
    load_json,
    load_models,
    making_folder,
    number,
    open_run,
    progress,
    random_generator,
    read_slices,
    run_folder,
    run_script,
    save_json,
    start_tensorflow,
    to_bytes,
    whole_file,
)

SAMPLE_BLOCK = 64  # grids per sampling call, always: floating-point sums differ with the shape of the batch
SAMPLE_SETS = 5
NULL_DRAWS = 20
SET_SLICES = 2100  # of a split that sets are compared on; of training people that nulls are drawn from, twice that
POSITION_BINS = 5
FEW_PEOPLE = 30


# ---- flags ------------------------------------------------------------------------------------


def parse_flags(argv):
    """The flags as a namespace."""
    parser = Parser(description=__doc__.split("\n\n")[0],
                    epilog="examples: python evaluate.py --run brains --split test\n"
                           "          python evaluate.py --compare runs/a runs/b\n"
                           "          python evaluate.py --real SLICES/test --generated OTHER --train SLICES/train")
    parser.add_argument("--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N",
                        help="of everything random (default 0)")
    parser.add_argument("--num-samples", type=number(int, 1, 1000000), default=1000, metavar="N",
                        help="samples for the memorisation search and the figures (default 1000)")
    parser.add_argument("--out", metavar="DIR", help="where --compare and --generated write (default: under runs/)")
    group = parser.add_argument_group("a run")
    group.add_argument("--run", metavar="NAME", help="name under runs/, or a path (default: the newest finished run)")
    group.add_argument("--split", choices=("validation", "test"), default="validation",
                       help="the people to measure on; looks at test people are counted (default validation)")
    group.add_argument("--data", metavar="DIR", help="where the run's slices are now (default: where they were)")
    group.add_argument("--metadata", metavar="CSV", help="ADNI search CSV, for tables by sex and age")
    group.add_argument("--quick", action="store_true", help="draw only as many samples as the split has slices")
    group.add_argument("--shareable", action="store_true",
                       help="write report_shareable.html too: aggregate numbers and samples, no participant's image")
    group.add_argument("--features", metavar="FILE.npy|inception",
                       help="one more Fréchet distance, of these features or of Keras InceptionV3's")
    group = parser.add_argument_group("several runs")
    group.add_argument("--compare", nargs="+", metavar="RUN", help="a table and a figure of runs already evaluated")
    group = parser.add_argument_group("images of any generator")
    group.add_argument("--real", metavar="DIR", help="real slices of unseen people")
    group.add_argument("--generated", metavar="DIR", help="the images to judge")
    group.add_argument("--train", metavar="DIR", help="the slices that the generator was trained on")
    flags = parser.parse_args(argv)
    if (flags.real is None) != (flags.generated is None) or (flags.train and not flags.real):
        parser.error("--real and --generated belong together, and --train to them")
    if sum(value is not None for value in (flags.run, flags.compare, flags.real)) > 1:
        parser.error("--run, --compare and --real are three different jobs: give one of them")
    if flags.compare and len(flags.compare) < 2:
        parser.error("--compare needs two runs or more")
    if flags.shareable and flags.real and not flags.train:
        parser.error("--shareable needs --train: without training slices there is no audit")
    mode = "--compare" if flags.compare else "--real" if flags.real else "a run"
    for name in {"--compare": ("data", "metadata", "quick", "features", "shareable"), "a run": ("out",),
                 "--real": ("data", "metadata", "quick", "features")}[mode]:
        if getattr(flags, name):
            parser.error(f"--{name} does not go with {mode}")
    return flags


def main(argv):
    """Measure; see ``python evaluate.py --help``."""
    flags = parse_flags(argv)
    flags.command = shlex.join(["evaluate.py", *argv])
    if flags.compare:
        compare(flags)
    elif flags.real:
        evaluate_folders(flags)
    else:
        evaluate_run(flags)


# ---- a run ------------------------------------------------------------------------------------


class Run:
    """A finished run with its data: parts of its slices, encoded, decoded and sampled."""

    def __init__(self, flags, prior=True):
        self.folder, self.config = open_run(flags.run, "prior" if prior else "vqvae")
        self.root, self.seed = flags.data or self.config["data"], flags.seed
        self.slices = read_slices(self.folder)
        for split in ("train", flags.split):
            people = self.slices["subject"][self.slices["split"] == split].nunique()
            if people < 2:
                raise UserError(f"the run {self.folder} has fewer than two {split} people: nothing can be measured")
        if not Path(self.root).is_dir():
            raise UserError(f"the run's data {self.root} is not there: say where with --data")
        start_tensorflow()
        import dataset

        self.box, self.frame = dataset.Box(*self.config["crop_box"]), tuple(self.config["frame"])
        self.vqvae, self.prior = load_models(self.folder, prior) + [None] * (not prior)
        files = ("vqvae.keras", "prior.keras")[: 1 + prior]
        self.models_hash = "".join(file_sha256(self.folder / name) for name in files)
        self.num_codes, self.grid = self.vqvae.settings["num_codes"], self.vqvae.code_grid

    def cached(self, name, content, compute):
        """``compute()``, an array, kept under cache/ by the hash of the models and of ``content``.

        Codes lie there as int16 where they fit, half of what the models take.
        """
        import numpy as np

        digest = hashlib.sha256(f"{self.models_hash} {self.seed} {content}".encode()).hexdigest()[:16]
        path = self.folder / "cache" / f"{name}-{digest}.npz"
        if path.is_file():
            values = np.load(path, allow_pickle=False)["values"]
            return values.astype(np.int32) if values.dtype == np.int16 else values
        values = compute()
        is_short = values.dtype == np.int32 and values.max(initial=0) < 2**15
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as temporary:
            np.savez_compressed(temporary, values=values.astype(np.int16) if is_short else values)
        return values

    def load(self, split, frames=False):
        """One split: slices, columns of conditions, codes, crops and their reconstructions (N, H, W) uint8.

        The images as they are on disk, (N, frame) uint8, are kept only with ``frames``: they are the largest.
        """
        import dataset
        from metrics import condition_ids, encode_images

        slices = self.slices[self.slices["split"] == split]
        loaded = dataset.load_images(self.root, slices["path"].tolist(), self.frame)
        slices = slices[loaded.usable].reset_index(drop=True)
        if (frames or split == "train") and slices["subject"].nunique() < 2:
            raise UserError(f"fewer than two {split} people in {self.root} have readable slices: "
                            "nothing can be measured")
        codes = self.cached(f"codes-{split}", loaded.fingerprint,
                            lambda: encode_images(self.vqvae, loaded.images, self.box))
        part = {"slices": slices, "columns": condition_ids(slices, self.config["labels"]), "codes": codes,
                "crops": dataset.crop(loaded.images, self.box)[..., 0], "fingerprint": loaded.fingerprint,
                "reconstructions": self.decode(codes, split)}
        return part | {"images": loaded.images} if frames else part

    def decode(self, codes, what):
        """Codes (N, h, w) → crops (N, H, W) uint8."""
        import numpy as np

        from metrics import BLOCK

        blocks = [to_bytes(np.asarray(self.vqvae.decode(codes[start: start + BLOCK])))
                  for start in progress(range(0, len(codes), BLOCK), desc=f"decoding {what}", unit=" blocks")]
        return np.concatenate(blocks)

    def sample(self, label, position, count):
        """Codes (count, h, w) of samples whose conditions repeat the lists ``label`` and ``position``."""
        import numpy as np

        def compute():
            blocks = []
            for start in progress(range(0, count, SAMPLE_BLOCK), desc="sampling", unit=" blocks"):
                numbers = np.arange(start, start + SAMPLE_BLOCK)
                uniforms = np.stack([random_generator(self.seed, "evaluation codes", i).random(self.grid, np.float32)
                                     for i in numbers])
                blocks.append(self.prior.sample(uniforms, label[numbers % len(label)],
                                                position[numbers % len(label)])[0])
            return np.concatenate(blocks)[:count]

        conditions = hashlib.sha256(label.tobytes() + position.tobytes()).hexdigest()
        return self.cached("samples", f"{conditions} {count}", compute)

    def image_set(self, part, images, rows=slice(None), person=None):
        """Some rows of a part as an ImageSet with these images."""
        from metrics import ImageSet

        subjects = part["slices"]["subject"].to_numpy().astype(str) if person is None else person
        return ImageSet(images, part["columns"]["label"], part["columns"]["position"] - 1, subjects).take(rows)


def whole_people(subjects, limit):
    """(N,) bool: the slices of as many people, evenly spread over the list, as ``limit`` slices hold."""
    import numpy as np

    people = np.unique(subjects)
    kept = max(2, min(len(people), int(limit * len(people) / max(len(subjects), 1))))
    return np.isin(subjects, people[np.linspace(0, len(people) - 1, kept).round().astype(int)])


def evaluate_run(flags):
    """Measure one run and write metrics.json, people.csv, figures and report.html into its folder."""
    import numpy as np

    run = Run(flags)
    import report

    metadata = read_metadata(flags.metadata, run)  # before the look: a mistake in it costs none
    if flags.split == "test":
        note_look(run.folder, flags.command)
    splits = dict.fromkeys(("train", "validation", flags.split))
    parts = {split: run.load(split, frames=split == flags.split) for split in splits
             if (run.slices["split"] == split).any()}
    held_out = parts[flags.split]
    count = held_out["slices"]["subject"].nunique()
    metrics = {"run": run.folder.name, "split": flags.split, "people": count, "slices": len(held_out["slices"]),
               "seed": flags.seed, "commit": git_commit(), "date": f"{datetime.date.today()}",
               "command": flags.command, "notes": []}
    if count < FEW_PEOPLE:
        metrics["notes"].append(f"n = {count} people: exploratory")
    per_slice, metrics["reconstruction"] = measure_reconstruction(run, held_out, metrics["notes"])
    baseline = PositionalBaseline(parts["train"], parts.get("validation"), run.num_codes)
    bits, metrics["rate"], metrics["codebook"], metrics["prior"] = measure_codes(run, parts, flags.split, baseline)
    per_slice.loc[bits[flags.split]["kept"], "bits_per_code"] = bits[flags.split]["prior"].mean(axis=(1, 2))

    rows = np.flatnonzero(whole_people(held_out["slices"]["subject"].to_numpy(), SET_SLICES))
    if len(rows) < len(held_out["slices"]):
        counted = bits[flags.split]["kept"].sum()
        metrics["notes"].append(f"sets are compared on the {len(rows)} slices of evenly drawn people, and bits are "
                                f"counted on {counted}, of the {len(held_out['slices'])} of the split")
    sets = gather_sets(run, flags, parts, rows, baseline)
    extra = (other_features(flags.features, sets, run.folder / "cache" / "features_images.npy")
             if flags.features else {})
    metrics["samples"], yardstick = measure_samples(sets, flags.seed, metrics["notes"])
    metrics["samples"] |= extra
    metrics["memorisation"], neighbours = measure_memorisation(sets, flags.seed)
    metrics["memorisation"] |= membership(bits, flags.split, run, parts)
    metrics["usefulness"] = measure_usefulness(sets, yardstick)
    people = per_slice.groupby("subject").agg({"label": "first", **dict.fromkeys(
        per_slice.columns.difference(["subject", "label"]), "mean")})
    if metadata is not None:
        metrics["cohort"] = measure_cohort(metadata, people)
    elif run.config["metadata"]:
        metrics["notes"].append("the metadata that the run was trained with is not there: no tables by sex and age")
    with whole_file(run.folder / "people.csv") as temporary:
        people.to_csv(temporary)
    save_json(run.folder / "metrics.json", metrics)
    pictures = {"held_out": held_out, "sets": sets, "bits": bits, "neighbours": neighbours, "box": run.box,
                "num_codes": run.num_codes}
    refusal = report.write_report(run.folder, run.config, metrics, pictures, flags.shareable)
    report.print_summary(metrics)
    print(run.folder / "report.html")
    if refusal:
        raise UserError(refusal)


def note_look(folder, command):
    """Append this look at the test people to test_looks.csv."""
    path = folder / "test_looks.csv"
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        looks = csv.writer(file)
        if new:
            looks.writerow(["date", "commit", "command"])
        looks.writerow([f"{datetime.datetime.now():%Y-%m-%d %H:%M}", git_commit(), command])


# ---- reconstruction, rate, likelihood -----------------------------------------------------------


def measure_reconstruction(run, part, notes):
    """Per-slice metrics (DataFrame with subject and label) and their summary over people."""
    import pandas as pd

    import dataset
    from metrics import detail_metrics, image_metrics, mean_by_person, ms_ssim_scales, parallel

    def measure(row):
        original = part["images"][row]
        reconstruction = dataset.paste(part["reconstructions"][row][..., None], run.box, run.frame)
        return image_metrics(original, reconstruction) | detail_metrics(original, reconstruction)

    rows = parallel(measure, range(len(part["codes"])), tracker("reconstructions", len(part["codes"])))
    subjects = part["slices"]["subject"]
    summary = mean_by_person(rows, subjects)
    deviations = pd.DataFrame(rows).groupby(subjects.to_numpy()).mean().std()
    for name in list(summary):
        if summary[name] is None:
            summary[f"{name}_why"] = "no slice has what this measures"
        summary[f"{name}_sd"] = float(deviations[name]) if deviations[name] == deviations[name] else None
        if summary[f"{name}_sd"] is None:
            summary[f"{name}_sd_why"] = "needs two people"
    summary["ms_ssim_scales"] = ms_ssim_scales(run.frame)
    if summary["ms_ssim_scales"] < 5:
        notes.append(f"MS-SSIM on {summary['ms_ssim_scales']} of 5 scales, which is what the frame has room for")
    return pd.DataFrame(rows).assign(subject=subjects, label=part["slices"]["label"]), summary


class PositionalBaseline:
    """How often each code stood in each cell of the training grids, by slice position in five bins.

    Mixed with the add-one-smoothed unigram; the weight of the mixture is chosen on validation people.
    """

    def __init__(self, training, validation, num_codes):
        import numpy as np

        codes = training["codes"]
        self.last = int(training["columns"]["position"].max())
        counts = np.bincount(codes.ravel(), minlength=num_codes) + 1.0
        self.unigram = counts / counts.sum()  # (K,)
        bins = self.bins(training["columns"])
        self.counts = np.zeros((POSITION_BINS, *codes.shape[1:], num_codes), np.uint32)
        h, w = np.indices(codes.shape[1:])
        np.add.at(self.counts, (bins[:, None, None], h, w, codes), 1)
        self.totals = np.maximum(np.bincount(bins, minlength=POSITION_BINS), 1)
        chosen_on = validation if validation is not None else training
        weights = np.linspace(0.05, 0.95, 19)
        self.weight = min(weights, key=lambda weight: self.bits(chosen_on, weight).mean())

    def bins(self, columns):
        """The bin of each slice's position, (N,) int."""
        return ((columns["position"] - 1).clip(0, self.last - 1) * POSITION_BINS) // self.last

    def bits(self, part, weight=None, counted=False):
        """−log2 p of every code: (N, h, w). ``counted`` says that the part is among what was counted.

        Each of its people is then left out of the counts: they would know their own slices.
        """
        import numpy as np

        weight = self.weight if weight is None else weight
        codes, bins = part["codes"], self.bins(part["columns"])
        h, w = np.indices(codes.shape[1:])
        seen, totals = self.counts[bins[:, None, None], h, w, codes].astype(int), self.totals[bins]
        if counted:
            for rows in part["slices"].groupby(["subject", bins]).indices.values():
                seen[rows] -= (codes[rows][:, None] == codes[rows]).sum(axis=1)
                totals[rows] -= len(rows)
        share = seen / np.maximum(totals, 1)[:, None, None]
        return -np.log2(weight * share + (1 - weight) * self.unigram[codes])

    def draw(self, columns, random):
        """Codes (N, h, w) int32, every cell drawn on its own."""
        import numpy as np

        grids = []
        for place in self.bins(columns):
            p = self.weight * self.counts[place] / self.totals[place] + (1 - self.weight) * self.unigram  # (h, w, K)
            cumulative = p.cumsum(axis=-1)
            uniforms = random.random((*p.shape[:2], 1)) * cumulative[..., -1:]
            grids.append((cumulative <= uniforms).sum(axis=-1))
        return np.array(grids, np.int32)


def measure_codes(run, parts, split, baseline):
    """Bits of every code by split and model; and the sections rate, codebook and prior."""
    import numpy as np

    from metrics import brain_cells, codebook_metrics, mean_by_person, prior_bits, value_of

    brain = {name: brain_cells(part["crops"], run.grid) for name, part in parts.items()}
    bits, prior = {}, {}
    for name, part in parts.items():
        kept = whole_people(part["slices"]["subject"].to_numpy(), 2 * SET_SLICES)
        part = {"codes": part["codes"][kept], "slices": part["slices"][kept].reset_index(drop=True),
                "columns": {key: column[kept] for key, column in part["columns"].items()}}
        likelihood = run.cached(f"bits-{name}", f"{parts[name]['fingerprint']} {len(part['codes'])}",
                                lambda part=part: prior_bits(run.prior, part["codes"], part["columns"]))
        bits[name] = {"prior": likelihood, "positional": baseline.bits(part, counted=name == "train"),
                      "unigram": -np.log2(baseline.unigram)[part["codes"]], "brain": brain[name][kept],
                      "subject": part["slices"]["subject"].to_numpy(), "kept": kept}
    held_out, num_cells = bits[split], run.grid[0] * run.grid[1]

    def summary(values, subjects, cells=None):
        cells = np.ones(values.shape, bool) if cells is None else cells
        if not cells.any():
            return None
        sums, counts = (values * cells).sum(axis=(1, 2)), cells.sum(axis=(1, 2))
        rows = [{"bits": total / count if count else np.nan} for total, count in zip(sums, counts, strict=True)]
        return mean_by_person(rows, subjects)["bits"]

    for suffix in ("", "_brain"):
        for name in ("train", "validation", "test"):
            key = f"bits_per_code_{name}{suffix}"
            if name in bits:
                cells = bits[name]["brain"] if suffix else None
                put(prior, key, summary(bits[name]["prior"], bits[name]["subject"], cells), "cells")
            else:
                prior[key], prior[f"{key}_why"] = None, f"this look was at {split} people only"
        cells = held_out["brain"] if suffix else None
        for model in ("unigram", "positional"):
            put(prior, f"{model}_bits_per_code{suffix}", value_of(summary(held_out[model], held_out["subject"], cells)),
                "cells")
        prior[f"uniform_bits_per_code{suffix}"] = float(np.log2(run.num_codes))
    per_code = value_of(prior[f"bits_per_code_{split}"])
    prior["bits_per_pixel"] = per_code * num_cells / (run.frame[0] * run.frame[1])
    prior["overfitting"] = per_code - value_of(prior["bits_per_code_train"])
    prior["positional_weight"] = float(baseline.weight)
    rate = {"bits_per_image": float(num_cells * np.log2(run.num_codes)),
            "bits_per_image_unigram": prior["unigram_bits_per_code"] * num_cells,
            "bits_per_image_prior": per_code * num_cells}
    codes, in_brain = parts[split]["codes"], parts[split]["codes"][brain[split]]
    codebook = codebook_metrics(codes, run.num_codes)
    perplexity = codebook_metrics(in_brain, run.num_codes)["perplexity"] if len(in_brain) else None
    put(codebook, "perplexity_brain", perplexity, "cells")
    return bits, rate, codebook, prior


def membership(bits, split, run, parts):
    """How well one number per person tells training people from unseen ones, as AUC with an interval."""
    import numpy as np
    import pandas as pd

    from metrics import auc_interval

    scores = {}
    for name in ("train", split):
        part = parts[name]
        error = [np.abs(part["crops"][row].astype(float) - part["reconstructions"][row]).mean()
                 for row in np.flatnonzero(bits[name]["kept"])]
        surprise = (bits[name]["prior"] - bits[name]["positional"]).mean(axis=(1, 2))
        scores[name] = pd.DataFrame({"prior": surprise, "vqvae": error}).groupby(
            bits[name]["subject"]).mean()
    return {"membership_auc": auc_interval(scores[split]["prior"], scores["train"]["prior"]),
            "membership_auc_vqvae": auc_interval(scores[split]["vqvae"], scores["train"]["vqvae"]),
            "membership_note": "weak attack, no shadow models"}


# ---- samples ------------------------------------------------------------------------------------


def gather_sets(run, flags, parts, rows, baseline):
    """Every set of images that samples are measured with, from one run: a SimpleNamespace of ImageSets.

    reference and originals: the split's slices; pool and pool_originals: training people, what nulls are
    drawn from; samples: sets as long as the reference, with its labels and positions; generators: by name;
    search, all_samples, planted: for the memorisation search, with search_codes, … (N, h, w) beside them.
    """
    from types import SimpleNamespace

    import numpy as np

    from metrics import ImageSet

    held_out, training = parts[flags.split], parts["train"]
    reference = run.image_set(held_out, held_out["reconstructions"], rows)
    conditions = {name: column[rows] for name, column in held_out["columns"].items()}
    count = len(rows) if flags.quick else max(SAMPLE_SETS * len(rows), flags.num_samples)
    codes = run.sample(conditions["label"], conditions["position"], count)
    place = np.arange(count) % len(rows)
    everyone = ImageSet(run.decode(codes, "samples"), reference.label[place], reference.position[place],
                        np.char.add("sample ", np.arange(count).astype(str)))
    pool_rows = np.flatnonzero(whole_people(training["slices"]["subject"].to_numpy(), 2 * SET_SLICES))
    pool_originals = run.image_set(training, training["crops"], pool_rows)
    random = random_generator(flags.seed, "positional samples")
    positional = run.decode(baseline.draw(conditions, random), "the positional baseline")
    planted_codes, planted = plant_copies(run, training, flags.seed)
    searched = len(rows) if flags.quick else max(len(rows), flags.num_samples)
    return SimpleNamespace(
        reference=reference, originals=run.image_set(held_out, held_out["crops"], rows),
        pool=run.image_set(training, training["reconstructions"], pool_rows), pool_originals=pool_originals,
        samples=[everyone.take(slice(start, start + len(rows)))
                 for start in range(0, count - len(rows) + 1, len(rows))][:SAMPLE_SETS],
        generators={"positional": as_samples(reference, positional),
                    "gaussian": as_samples(reference, gaussian_images(pool_originals, reference, flags.seed))},
        search=run.image_set(training, training["reconstructions"]), search_codes=training["codes"],
        all_samples=everyone.take(slice(0, searched)), sample_codes=codes[:searched],
        reference_codes=held_out["codes"][rows], pool_rows=pool_rows, planted=planted, planted_codes=planted_codes,
        labels=run.config["labels"])


def replace_images(images, others):
    """The same ImageSet with other images."""
    import dataclasses

    return dataclasses.replace(images, images=others)


def as_samples(reference, images):
    """Images that stand for the slices of the reference one by one, each a person of its own."""
    import dataclasses

    import numpy as np

    return dataclasses.replace(reference, images=images,
                               person=np.char.add("sample ", np.arange(len(images)).astype(str)))


def gaussian_images(training, conditions, seed):
    """Samples (N, H, W) uint8 of the Gaussian with the mean of each position and the covariance of train.

    A normal combination of the centred training images has exactly their covariance.
    """
    import numpy as np

    pixels = training.images.reshape(len(training.images), -1).astype(np.float32)
    pixels /= 255
    overall = pixels.mean(axis=0)
    means = {position: pixels[training.position == position].mean(axis=0) for position in np.unique(training.position)}
    for position, mean in means.items():
        pixels[training.position == position] -= mean
    weights = random_generator(seed, "gaussian samples").standard_normal((len(conditions.position), len(pixels)))
    weights = weights.astype(np.float32) / np.sqrt(len(pixels) - len(means) if len(pixels) > len(means) else 1)
    centres = [means.get(position, overall) for position in conditions.position]
    blocks = [to_bytes(weights[start: start + 256] @ pixels + centres[start: start + 256])
              for start in range(0, len(weights), 256)]
    return np.concatenate(blocks).reshape(-1, *training.images.shape[1:])


def draw_null(pool, reference, seed, draw):
    """Training slices that stand for those of the reference: same labels and positions, whole people.

    Every person of the reference is replaced by a training person of the same label, drawn without
    replacement as far as they last, and every slice by that person's slice at the nearest position.
    """
    import dataclasses

    import numpy as np

    random = random_generator(seed, "null people", draw)
    label_of = dict(zip(pool.person, pool.label, strict=True))
    everyone = np.unique(pool.person)
    candidates, used, rows = {}, {}, np.zeros(len(reference.person), int)
    for person in np.unique(reference.person):
        slices = np.flatnonzero(reference.person == person)
        label = reference.label[slices[0]]
        if label not in candidates:
            same = [name for name in everyone if label_of[name] == label] or list(everyone)
            candidates[label], used[label] = random.permutation(same), 0
        chosen = np.flatnonzero(pool.person == candidates[label][used[label] % len(candidates[label])])
        used[label] += 1
        nearest = np.abs(pool.position[chosen][:, None] - reference.position[slices]).argmin(axis=0)
        rows[slices] = chosen[nearest]
    drawn = pool.take(rows)
    return dataclasses.replace(drawn, label=reference.label, position=reference.position), rows


def band(values):
    """Median, 5 % and 95 % of the values of a statistic, or None where it does not exist."""
    import numpy as np

    values = [value for value in values if value is not None]
    if not values:
        return None
    low, median, high = np.percentile(values, [5, 50, 95])
    return {"value": float(median), "low": float(low), "high": float(high)}


WHY_NOT = {
    "c2st": "needs two people on both sides",
    "diversity": "no two people share a label and a position",
    "patches": "no patch fits into any brain",
    "cells": "no brain was found",
    "effect": "no brain was found, or all real people are alike",
    "wasserstein": "no brain was found",
    "spread": "--quick draws one set",
    "null": "there are no training people to draw from",
}


def measure_samples(sets, seed, notes):
    """The section samples of metrics.json, and the Yardstick."""
    from metrics import ANATOMY, Yardstick, jackknife, parallel, set_statistics, variety

    yardstick = Yardstick(sets.pool_originals, seed, tracker("yardstick", len(sets.pool.images)))
    described = {}
    for name, images in (("reference", sets.reference), ("originals", sets.originals), ("pool", sets.pool),
                         *sets.generators.items(), *((f"set {i + 1}", one) for i, one in enumerate(sets.samples))):
        if len(images.images) == 0:  # there is no --train
            continue
        described[name] = yardstick.describe(images, tracker(f"describing {name}", len(images.images)))
    reference, originals, rms = described["reference"], described["originals"], yardstick.shape_rms
    reference_variety = variety(reference)

    def statistics(images):
        return set_statistics(images, reference, originals, rms, reference_variety)

    def null(draw):
        return statistics(draw_null(described["pool"], reference, seed, draw)[0])

    nulls = parallel(null, range(NULL_DRAWS), tracker("null band", NULL_DRAWS)) if len(sets.pool.images) else []
    judged = [name for name in described if name not in ("reference", "originals", "pool")]
    statistics_of = parallel(lambda name: statistics(described[name]), judged, tracker("statistics", len(judged)))
    measured = dict(zip(judged, statistics_of, strict=True))
    intervals = jackknife(described["set 1"], reference, originals, rms)
    result = {"sets": len(sets.samples), "null_draws": len(nulls), "slices_per_set": len(reference.images)}
    anatomy = {}
    for name, value in measured["set 1"].items():
        short = name.rpartition("_")[0]
        target = anatomy if short in ANATOMY else result
        put(target, name, intervals.get(name, value), name)
        put(target, f"{name}_null", band(null[name] for null in nulls), "null" if not nulls else name)
        repeats = [measured[f"set {i + 1}"][name] for i in range(len(sets.samples))]
        put(target, f"{name}_spread", band(repeats) if len(repeats) > 1 else None, "spread")
        for generator in sets.generators:
            put(target, f"{name}_{generator}", measured[generator][name], name)
    both = variety(originals)
    put(result, "diversity_reconstruction", reference_variety / both if both and reference_variety else None,
        "diversity")
    result["anatomy"] = anatomy | label_effects(described, sets.labels)
    components = yardstick.pca.n_components_
    if components < 32:
        notes.append(f"{components} principal components, which is what there are slices for")
    people = len(set(reference.person))
    if people < 5:
        notes.append(f"{people} folds in the two-sample classifier, one a person")
    return result, yardstick


def put(target, name, value, reason):
    """Set a metric; None gets its reason beside it."""
    target[name] = value
    if value is None:
        key = reason if reason in WHY_NOT else reason.rpartition("_")[2]
        target[f"{name}_why"] = WHY_NOT.get(key, "not defined for these sets")


def label_effects(described, labels):
    """The difference of the first two labels in each of ANATOMY, in real people and in samples, z-scores."""
    import numpy as np

    from metrics import ANATOMY, mean_difference

    samples = [images for name, images in described.items() if name.startswith("set ")]
    z_scores = {"real": described["originals"].anatomy,
                "samples": np.concatenate([images.anatomy for images in samples])}
    label = {"real": described["originals"].label, "samples": np.concatenate([images.label for images in samples])}
    person = {"real": described["originals"].person, "samples": np.concatenate([images.person for images in samples])}
    result = {"label_effect": f"{labels[0]} minus {labels[1]}" if len(labels) > 1 else "there is one label"}
    for column, name in enumerate(ANATOMY):
        for side in ("real", "samples"):
            value = mean_difference(z_scores[side][:, column], label[side], person[side]) if len(labels) > 1 else None
            result[f"{name}_label_effect_{side}"] = value
            if value is None:
                result[f"{name}_label_effect_{side}_why"] = "needs two people of each of two labels"
    return result


# ---- memorisation -------------------------------------------------------------------------------


class CopySearch:
    """Finds the training image nearest to a query: all slices, mirror images, shifts of up to 3 pixels.

    The distance is 1 − the correlation, inside the brain of the query, of what is finer than 1/32 of the
    height: every brain has the coarse part in common. A gain does not change it. A coarse search on
    quarter-size images, at shifts of 2 pixels, picks 20 candidates, which are then compared at full size.
    """

    CANDIDATES, SHIFT, COARSEST = 20, 3, 1 / 32

    def __init__(self, training):
        import numpy as np

        self.training = training
        self.details = self.detail(training.images)
        both = [self.coarse(self.details), self.coarse(self.details[..., ::-1])]
        self.coarse_training = np.concatenate(both)  # (2 N, pixels): as they are, then mirrored

    def detail(self, images):
        """(N, H, W) uint8 → int8: the images without what is coarser than COARSEST, clipped to ± 127."""
        import numpy as np
        from scipy import ndimage

        from metrics import parallel

        def filtered(image):
            image = image.astype(np.float32)
            coarse = ndimage.gaussian_filter(image, self.COARSEST * len(image))
            return np.clip(image - coarse, -127, 127).astype(np.int8)

        return np.stack(parallel(filtered, images))

    @staticmethod
    def coarse(details):
        """(N, H, W) int8 → (N, H W / 16) float32 of mean 0 and length 1."""
        import numpy as np

        from metrics import half_size

        blocks = [half_size(half_size(details[start: start + 512].astype(np.float32)))
                  for start in range(0, len(details), 512)]
        vectors = np.concatenate(blocks).reshape(len(details), -1)
        vectors -= vectors.mean(axis=1, keepdims=True)
        return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-6)

    def nearest(self, queries, what):
        """Distance (N,) float and training row (N,) int of the nearest image; never one of the same person."""
        import numpy as np

        from metrics import brain_mask, parallel

        details, everyone = self.detail(queries.images), np.tile(self.training.person, 2)

        def search(i):
            shifted = [np.roll(details[i], (2 * y - 2, 2 * x - 2), (0, 1)) for y, x in np.ndindex(3, 3)]
            likeness = (self.coarse_training @ self.coarse(np.stack(shifted)).T).max(axis=1)
            likeness[everyone == queries.person[i]] = -2
            count = min(self.CANDIDATES, int((likeness > -2).sum()))
            candidates = np.argpartition(-likeness, count - 1)[:count]
            return self.refine(details[i], brain_mask(queries.images[i]), candidates)

        found = parallel(search, range(len(queries.images)), tracker(f"searching {what}", len(queries.images)))
        return np.array([distance for distance, _ in found]), np.array([row for _, row in found])

    def refine(self, query, mask, candidates):
        """Distance to, and row of, the best of some candidates at any shift, inside the mask of the query."""
        import numpy as np

        n, reach = len(self.details), self.SHIFT
        mask = mask if mask.any() else np.ones_like(mask)
        rows, columns = (slice(places.min(), places.max() + 1) for places in np.nonzero(mask))
        mask, query = mask[rows, columns], query[rows, columns].astype(np.float32)
        query = np.where(mask, query - query[mask].mean(), 0)
        images = [self.details[row % n][:, :: -1 if row >= n else 1] for row in candidates]
        padded = np.pad(np.stack(images), ((0, 0), (reach, reach), (reach, reach)))
        window = padded[:, rows.start: rows.stop + 2 * reach, columns.start: columns.stop + 2 * reach]
        flat = window.reshape(len(images), -1).astype(np.float32)  # (candidates, pixels)
        shape, steps = window.shape[1:], 2 * reach + 1
        queries, masks = np.zeros((2, steps * steps, *shape), np.float32)
        for shift in range(steps * steps):
            y, x = divmod(shift, steps)
            queries[shift, y: y + mask.shape[0], x: x + mask.shape[1]] = query
            masks[shift, y: y + mask.shape[0], x: x + mask.shape[1]] = mask
        queries, masks = queries.reshape(steps**2, -1), masks.reshape(steps**2, -1)
        area, sums = mask.sum(), masks @ flat.T  # (shifts, candidates)
        spread = np.sqrt(np.maximum(masks @ (flat**2).T - sums**2 / area, 1e-3))
        correlation = (queries @ flat.T / (spread * max(np.sqrt((query**2).sum()), 1e-3))).max(axis=0)
        best = correlation.argmax()
        return float(1 - correlation[best]), int(candidates[best] % n)


def nearest_windows(queries, training, own=None, window=10):
    """The share of agreeing codes in the best window of each query (N, h, w) with any training grid.

    Args:
        own: (N, M) function of a row to the training rows to leave out, or None.
        window: side in codes, the grid's where that is smaller.
    """
    import numpy as np

    from metrics import parallel

    height, width = (min(window, side) for side in training.shape[1:])

    def best(i):
        agree = training == queries[i]  # (M, h, w)
        sums = agree.cumsum(axis=1, dtype=np.int16).cumsum(axis=2, dtype=np.int16)
        sums = np.pad(sums, ((0, 0), (1, 0), (1, 0)))
        found = (sums[:, height:, width:] - sums[:, :-height, width:] - sums[:, height:, :-width]
                 + sums[:, :-height, :-width]).max(axis=(1, 2))
        if own is not None:
            found[own(i)] = 0
        return found.max() / (height * width)

    return np.array(parallel(best, range(len(queries)), tracker("searching windows", len(queries))))


def plant_copies(run, training, seed, count=200):
    """Copies that a search must find: a tenth of the codes redrawn, shifted by up to 2 px, gain ± 5 %.

    The prior redraws them, each given the codes before it, as it would have sampled them.
    """
    import numpy as np

    from metrics import ImageSet

    random = random_generator(seed, "planted copies")
    rows = random.choice(len(training["codes"]), min(count, len(training["codes"])), replace=False)
    columns = {name: column[rows] for name, column in training["columns"].items()}
    redrawn = random.random((len(rows), *run.grid)) < 0.1
    uniforms = random.random(redrawn.shape, np.float32)
    codes = run.cached("planted", training["fingerprint"], lambda: np.array(run.prior.sample(
        uniforms, columns["label"], columns["position"], known=training["codes"][rows], mask=~redrawn)[0]))
    images = shift_and_gain(run.decode(codes, "planted copies"), random)
    return codes, ImageSet(images, columns["label"], columns["position"] - 1, np.full(len(rows), "planted copy"))


def shift_and_gain(images, random):
    """Images (N, H, W) uint8, each shifted by up to 2 px either way and brightened or darkened by up to 5 %."""
    import numpy as np

    changed = []
    for image in images:
        y, x = random.integers(-2, 3, 2)
        shifted = np.pad(image, 2)[2 - y: image.shape[0] + 2 - y, 2 - x: image.shape[1] + 2 - x]
        changed.append(to_bytes(shifted / 255 * random.uniform(0.95, 1.05)))
    return np.stack(changed)


def measure_memorisation(sets, seed):
    """The section memorisation of metrics.json, and the ten nearest pairs of (sample, training row, distance)."""
    import numpy as np

    search = CopySearch(sets.search)
    unseen, _ = search.nearest(sets.reference, "unseen people")
    copies, _ = search.nearest(sets.planted, "planted copies")
    found, nearest = search.nearest(sets.all_samples, "samples")
    left_out, _ = search.nearest(sets.pool, "training people, each without their own slices")
    threshold = float(np.quantile(copies, 0.95))
    below = {name: values <= threshold for name, values in (("unseen", unseen), ("samples", found),
                                                            ("null", left_out))}
    draws = [draw_null(sets.pool, sets.reference, seed, draw)[1] for draw in range(NULL_DRAWS)]
    false_alarm = float(below["unseen"].mean())
    result = {"searched_samples": len(found), "searched_training_slices": len(sets.search.images),
              "planted": len(copies), "planted_found": float((copies <= threshold).mean()), "threshold": threshold,
              "audit_false_alarm": false_alarm, "copies_fraction": float(below["samples"].mean() - false_alarm),
              "copies_fraction_null": band([below["null"][rows].mean() - false_alarm for rows in draws]),
              "people_copied": len(set(sets.search.person[nearest[below["samples"]]])),
              "nn_ratio": float(np.median(found) / np.median(unseen)),
              "nn_ratio_null": band([np.median(left_out[rows]) / np.median(unseen) for rows in draws])}
    excess = more_than_chance(below["samples"], np.concatenate([below["unseen"], below["null"]]))
    if sets.search_codes is not None:
        local, local_excess = measure_local_copies(sets)
        result |= local
        excess = excess or local_excess
    else:
        result |= {"copies_local": None, "copies_local_why": "images without codes have no windows of codes"}
    found_share = f"{100 * result['planted_found']:.0f} %"
    if false_alarm > 0.05:
        verdict = (f"cannot tell: {100 * false_alarm:.0f} % of unseen people's slices look like copies to a search "
                   f"that finds {found_share} of planted copies")
    elif excess:
        verdict = (f"copies found: {100 * below['samples'].mean():.1f} % of samples are as near to a training slice as "
                   f"planted copies are, {100 * false_alarm:.1f} % of unseen people's slices"
                   + ("" if sets.search_codes is None else f"; in windows of codes {100 * result['copies_local']:.1f} "
                      "% more than unseen people's"))
    else:
        verdict = f"no copies found by a search that finds {found_share} of planted copies; not a privacy guarantee"
    result |= {"flagged": bool(excess), "verdict": verdict}
    order = np.argsort(found)[:10]
    return result, [(int(row), int(nearest[row]), float(found[row])) for row in order]


def more_than_chance(samples, clean):
    """Whether more samples fall below the threshold than those that copy nothing would (binomial, 1 %).

    The rate of those, slices of unseen people and of training people with their own left out, is smoothed
    by adding one to their count.
    """
    from scipy import stats

    rate = (clean.sum() + 1) / (len(clean) + 2)
    return bool(stats.binom.sf(samples.sum() - 1, len(samples), rate) < 0.01)


def measure_local_copies(sets):
    """copies_local of the section memorisation, and whether there are more than chance would make."""
    import numpy as np

    own = [np.flatnonzero(sets.search.person == person) for person in sets.pool.person]
    agreement = {"unseen": nearest_windows(sets.reference_codes, sets.search_codes),
                 "planted": nearest_windows(sets.planted_codes, sets.search_codes),
                 "samples": nearest_windows(sets.sample_codes, sets.search_codes),
                 "null": nearest_windows(sets.search_codes[sets.pool_rows], sets.search_codes, own.__getitem__)}
    threshold = np.quantile(agreement["planted"], 0.05)
    above = {name: values >= threshold for name, values in agreement.items()}
    false_alarm = float(above["unseen"].mean())
    excess = more_than_chance(above["samples"], np.concatenate([above["unseen"], above["null"]]))
    return {"copies_local": float(above["samples"].mean() - false_alarm), "local_false_alarm": false_alarm,
            "local_threshold": float(threshold)}, excess and false_alarm <= 0.05


# ---- usefulness ---------------------------------------------------------------------------------


def measure_usefulness(sets, yardstick):
    """The section usefulness: do samples teach a classifier the label of real unseen people?"""
    import numpy as np
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from metrics import auc_interval

    names = [f"{measure}_{source}" for source in ("real", "samples", "both")
             for measure in ("auc", "balanced_accuracy")]

    def not_assessed(reason):
        return {key: value for name in names for key, value in ((name, None), (f"{name}_why", reason))}

    labels, counts = np.unique(sets.pool.label, return_counts=True)
    if len(labels) < 2:
        return not_assessed("there is one label")
    two = labels[np.argsort(-counts, kind="stable")[:2]]
    people = pd.Series(sets.originals.label).groupby(sets.originals.person).first()
    if min((people == label).sum() for label in two) < 2:
        return not_assessed("needs two unseen people of each of two labels")
    samples = [one.take(np.isin(one.label, two)) for one in sets.samples]
    real = sets.pool_originals.take(np.isin(sets.pool_originals.label, two))
    unseen = sets.originals.take(np.isin(sets.originals.label, two))
    features = {"real": [(yardstick.shape_of(real), real.label)],
                "samples": [(yardstick.shape_of(one), one.label) for one in samples]}
    features["both"] = features["real"] + features["samples"]
    result = {}
    for source, blocks in features.items():
        x, y = (np.concatenate(column) for column in zip(*blocks, strict=True))
        if len(np.unique(y)) < 2:
            return not_assessed(f"there is one label in {source}")
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
        scores = classifier.fit(x, y).decision_function(yardstick.shape_of(unseen))
        by_person = pd.DataFrame({"score": scores, "label": unseen.label}).groupby(unseen.person).agg(
            {"score": "mean", "label": "first"})
        high = by_person["label"] == classifier.classes_[1]
        result[f"auc_{source}"] = auc_interval(by_person["score"][high], by_person["score"][~high])
        result[f"balanced_accuracy_{source}"] = float(balanced_accuracy_score(high, by_person["score"] > 0))
    if result["auc_real"]["low"] <= 0.5:
        return not_assessed("labels not separable in the real data: not assessed")
    return result


# ---- optional measures --------------------------------------------------------------------------


def other_features(source, sets, images_path):
    """One more Fréchet distance, samples against originals, of features from a file or of InceptionV3.

    The features of the file are those of the images (2 N, H, W) uint8 that are written to ``images_path``:
    the split's slices, and then the samples of the first set.
    """
    import numpy as np

    from metrics import frechet_distance

    n = len(sets.originals.images)
    if source != "inception":
        with whole_file(images_path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.concatenate([sets.originals.images, sets.samples[0].images]))
        try:
            features = np.load(source, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"--features {source} cannot be read as a .npy file ({error}): make it from the {2 * n} "
                            f"images of {images_path}") from None
        if features.ndim != 2 or len(features) != 2 * n:
            raise UserError(f"--features {source} must have a row for each of the {2 * n} images of {images_path}, "
                            f"not the shape {features.shape}")
        return {"frechet_features": frechet_distance(features[n:], features[:n])}
    if n < 2048:
        raise UserError(f"--features inception needs 2,048 images a set, and the split has {n}: leave it out")
    import keras

    try:
        network = keras.applications.InceptionV3(include_top=False, pooling="avg")
    except Exception:  # whatever a download raises
        raise UserError("the weights of InceptionV3 cannot be had here: leave out --features, or give a .npy file "
                        "of features") from None

    def features(images):
        blocks = [np.repeat(images[start: start + 32, ..., None], 3, axis=-1) / 127.5 - 1
                  for start in range(0, len(images), 32)]
        return np.concatenate([network.predict_on_batch(block) for block in blocks])

    return {"frechet_keras_inception": frechet_distance(features(sets.samples[0].images),
                                                        features(sets.originals.images))}


def read_metadata(path, run):
    """The rows of an ADNI search CSV that are about the run's people, with their split; None without a CSV.

    A run whose people are image ids is joined by these. The CSV that the run was trained with may be gone.
    """
    from dataset import bare_ids, read_search

    if path is None and Path(run.config["metadata"] or "").is_file():
        path = run.config["metadata"]
    if path is None:
        return None
    table = read_search(path)
    if "subject" not in table:
        raise UserError(f"{path} lacks the column Subject of the ADNI search")
    split_of = run.slices.drop_duplicates("subject").set_index("subject")["split"]
    table["site"] = table["subject"].str.extract(r"^(\d+)_S_", expand=False)  # ADNI ids begin with the site
    if not table["subject"].isin(split_of.index).any() and "image data id" in table:
        person_of = dict(zip(bare_ids(split_of.index), split_of.index, strict=True))
        table["subject"] = bare_ids(table["image data id"]).map(person_of)
    table = table[table["subject"].isin(split_of.index)]
    if table.empty:
        raise UserError(f"{path} lists none of the run's people, such as {run.slices['subject'].iloc[0]}")
    return table.assign(split=table["subject"].map(split_of))


def measure_cohort(table, people):
    """Who is in which split, and the main numbers by sex and by age tertile, from what ``read_metadata`` read."""
    import pandas as pd

    visit = next((name for name in ("visit", "acq date", "image data id") if name in table), "subject")
    table["age"] = pd.to_numeric(table["age"], errors="coerce") if "age" in table else float("nan")
    field = next((name for name in table.columns if "field" in name or "imaging protocol" in name), None)
    result = {"splits": {}, "by_sex": {}, "by_age": {}}
    for split, rows in table.groupby("split"):
        persons = rows.drop_duplicates("subject")
        result["splits"][split] = {
            "people": len(persons), "visits": len(rows[["subject", visit]].drop_duplicates()),
            "age_mean": finite(persons["age"].mean()), "age_sd": finite(persons["age"].std()),
            "sex": persons["sex"].value_counts().to_dict() if "sex" in persons else {},
            "sites": int(persons["site"].nunique()),
            "field_strength": rows[field].value_counts().to_dict() if field else {}}
    persons = table.drop_duplicates("subject").set_index("subject")
    known = people.join(persons[["age", *(["sex"] if "sex" in persons else [])]], how="inner")
    main = ["ssim_brain", "psnr_brain", "bits_per_code"]
    if "sex" in known:
        result["by_sex"] = {sex: {"people": len(rows), **{name: finite(rows[name].mean()) for name in main}}
                            for sex, rows in known.groupby("sex")}
    if known["age"].notna().sum() >= 6:
        thirds = pd.qcut(known["age"], 3, duplicates="drop")
        result["by_age"] = {str(third): {"people": len(rows), **{name: finite(rows[name].mean()) for name in main}}
                            for third, rows in known.groupby(thirds, observed=True)}
    return result


def finite(value):
    """The value as a float, or None where it is not a number."""
    return float(value) if value == value else None


def tracker(what, total):
    """A function that wraps an iterable in a progress bar."""
    return lambda iterable: progress(iterable, total=total, desc=what, unit=" slices")


# ---- images of any generator --------------------------------------------------------------------


def evaluate_folders(flags):
    """Judge a folder of images against real slices of unseen people, with what needs no codes."""
    import numpy as np

    start_tensorflow()
    import dataset
    import report
    from utils import new_folder

    folders = {"real": flags.real, "generated": flags.generated} | ({"train": flags.train} if flags.train else {})
    loaded = {name: load_folder(name, folder) for name, folder in folders.items()}
    frames = {name: part["images"].shape[1:3] for name, part in loaded.items()}
    if len(set(frames.values())) > 1:
        sizes = ", ".join(f"{width}x{height} in {folders[name]}" for name, (height, width) in frames.items())
        raise UserError(f"the folders hold images of different sizes ({sizes}): make them the same")
    for name in folders.keys() - {"generated"}:
        if len(np.unique(loaded[name]["slices"]["subject"])) < 2:
            raise UserError(f"{folders[name]} holds fewer than two people: nothing can be measured")
    shared = set(loaded["real"]["slices"]["subject"]) & set(loaded["train"]["slices"]["subject"]) if flags.train else ()
    if shared:
        raise UserError(f"{flags.real} and {flags.train} share {len(shared)} people, such as {min(shared)}: "
                        "nothing unseen would be left to compare with")
    metrics = {"run": Path(flags.generated).name, "split": "folder", "seed": flags.seed, "commit": git_commit(),
               "date": f"{datetime.date.today()}", "command": flags.command, "notes": []}
    box = dataset.brain_crop(loaded["train" if flags.train else "real"]["brain_boxes"], frames["real"], 8)
    sets = folder_sets(loaded, box, flags, metrics["notes"])
    metrics |= {"people": len(set(sets.reference.person)), "slices": len(sets.reference.images)}
    if metrics["people"] < FEW_PEOPLE:
        metrics["notes"].append(f"n = {metrics['people']} people: exploratory")
    out = Path(flags.out) if flags.out else Path("runs") / f"generated-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    with new_folder(out) as unfinished:
        metrics["samples"], yardstick = measure_samples(sets, flags.seed, metrics["notes"])
        neighbours = []
        if flags.train:
            metrics["memorisation"], neighbours = measure_memorisation(sets, flags.seed)
            metrics["usefulness"] = measure_usefulness(sets, yardstick)
        save_json(unfinished / "metrics.json", metrics)
        folders_given = {"real": flags.real, "generated": flags.generated, "train": flags.train}
        refusal = report.write_report(unfinished, folders_given, metrics, {"sets": sets, "neighbours": neighbours},
                                      flags.shareable)
    report.print_summary(metrics)
    print(out / "report.html")
    if refusal:
        raise UserError(refusal)


def load_folder(name, folder):
    """The images of a folder with their labels and positions; those of predict.py are in its samples.csv."""
    import pandas as pd

    import dataset

    slices = dataset.find_slices(folder)
    table = Path(folder) / "samples.csv"
    if name == "generated" and table.is_file():
        told = pd.read_csv(table, dtype=str)
        slices = slices[slices["path"] != "sheet.png"].reset_index(drop=True)  # predict.py's contact sheet
        if not {"file", "label", "position"} <= set(told.columns) or not set(slices["path"]) <= set(told["file"]):
            raise UserError(f"{table} does not give the label and position of every image in {folder}")
        told = told.drop_duplicates("file").set_index("file").loc[slices["path"]]
        slices = slices.assign(label=told["label"].to_numpy(), subject=slices["path"],
                               position=pd.to_numeric(told["position"], errors="coerce").fillna(-1).to_numpy(int))
    loaded = dataset.load_images(folder, slices["path"].tolist())
    return {"slices": slices[loaded.usable].reset_index(drop=True), "images": loaded.images,
            "brain_boxes": loaded.brain_boxes}


def folder_sets(loaded, box, flags, notes):
    """What ``gather_sets`` makes of a run, of three folders; the originals take the place of reconstructions."""
    from types import SimpleNamespace

    import numpy as np
    from scipy import ndimage

    import dataset
    from metrics import ImageSet

    real, generated = loaded["real"]["slices"], loaded["generated"]["slices"]
    labels = sorted(set(real["label"]))
    label_known = set(generated["label"]) <= set(labels)
    position_known = set(generated["position"]) <= set(real["position"]) and (
        generated["position"].nunique() > 1 or real["position"].nunique() == 1)
    for known, what in ((label_known, "labels"), (position_known, "positions")):
        if not known:
            notes.append(f"the {what} of the generated images are unknown: they are not used on any side")

    def image_set(name):
        slices = loaded[name]["slices"]
        ids = slices["label"].map({label: i + 1 for i, label in enumerate(labels)}).fillna(0).to_numpy(int)
        return ImageSet(dataset.crop(loaded[name]["images"], box)[..., 0],
                        ids if label_known else np.zeros_like(ids),
                        slices["position"].to_numpy(int) if position_known else np.zeros_like(ids),
                        slices["subject"].to_numpy().astype(str))

    reference, candidates = image_set("real"), image_set("generated")
    reference = reference.take(whole_people(reference.person, min(SET_SLICES, len(candidates.images))))
    reference = reference.take(slice(0, len(candidates.images)))
    if len(set(reference.person)) < 2:
        raise UserError(f"{flags.generated} holds too few images ({len(candidates.images)}) to stand for two people")
    rows = match(reference, candidates, random_generator(flags.seed, "matching"))
    pool = image_set("train") if flags.train else reference.take(slice(0, 0))
    if not flags.train:
        notes.append("no --train: components are fitted on the real people, and there are no null bands and no audit")
    fitted = pool.take(whole_people(pool.person, 2 * SET_SLICES)) if flags.train else reference
    random = random_generator(flags.seed, "planted copies")
    planted_rows = random.choice(len(pool.images), min(200, len(pool.images)), replace=False)
    blur = reference.images.shape[1] / 160  # pixels; as a decoder would
    softened = ndimage.gaussian_filter(pool.images[planted_rows], (0, blur, blur))
    planted = replace_images(pool.take(planted_rows), shift_and_gain(softened, random) if flags.train else pool.images)
    planted.person = np.full(len(planted_rows), "planted copy")
    everyone = as_samples(candidates, candidates.images)
    samples = everyone.take(rows)
    samples.label, samples.position = reference.label, reference.position
    return SimpleNamespace(
        reference=reference, originals=reference, pool=fitted if flags.train else pool, pool_originals=fitted,
        samples=[samples], generators={}, search=pool, search_codes=None, planted=planted, labels=labels,
        all_samples=everyone.take(slice(0, max(flags.num_samples, len(rows)))))


def match(reference, candidates, random):
    """A row of the candidates for each slice of the reference: same label and position while they last."""
    import numpy as np

    free = np.ones(len(candidates.images), bool)
    order = random.permutation(len(free))
    rows = []
    for label, position in zip(reference.label, reference.position, strict=True):
        same_position = candidates.position[order] == position
        fits = [free[order] & same_position & (candidates.label[order] == label), free[order] & same_position,
                free[order]]
        row = order[next(fit for fit in fits if fit.any()).argmax()]
        free[row] = False
        rows.append(row)
    return np.array(rows)


# ---- several runs -------------------------------------------------------------------------------


COMPARED = ("rate.bits_per_image", "reconstruction.ssim_brain", "reconstruction.psnr_brain",
            "reconstruction.frc_resolution", "reconstruction.tissue_dice", "prior.bits_per_code",
            "rate.bits_per_image_prior", "samples.frechet", "samples.kid", "samples.c2st", "samples.patches",
            "samples.diversity", "memorisation.nn_ratio", "memorisation.copies_fraction")


def compare(flags):
    """A table, a CSV and a figure of runs that were evaluated on the same split."""
    import pandas as pd

    import report
    from metrics import value_of

    runs = {}
    for name in flags.compare:
        folder = run_folder(name)
        if not (folder / "metrics.json").is_file():
            raise UserError(f"the run {folder} has no metrics.json: run python evaluate.py --run {name} first")
        metrics = load_json(folder / "metrics.json")
        if metrics.get("split") == "folder":
            raise UserError(f"{folder} holds the evaluation of a folder of images: only runs can be compared")
        if not {"samples", "rate"} <= set(metrics) or not (folder / "people.csv").is_file():
            raise UserError(f"the evaluation in {folder} is incomplete: run python evaluate.py --run {name} again")
        runs[folder.resolve()] = metrics
    if len(runs) < len(flags.compare):
        raise UserError("--compare names one run twice: give different ones")
    if len(splits := {metrics["split"] for metrics in runs.values()}) > 1:
        raise UserError(f"the runs were evaluated on different splits ({', '.join(sorted(splits))}): "
                        "evaluate them on one")
    rows = []
    for folder, metrics in runs.items():
        row = {"run": folder.name, "people": metrics["people"]}
        for name in COMPARED:
            section, key = name.split(".")
            key = f"{key}_{metrics['split']}" if name == "prior.bits_per_code" else key
            row[name] = value_of(metrics[section].get(key))
            null = metrics[section].get(f"{key}_null")
            if null:
                row |= {f"{name}_null_low": null["low"], f"{name}_null_high": null["high"]}
        rows.append(row)
    table, paired = pd.DataFrame(rows).set_index("run"), pair_people(list(runs))
    out = Path(flags.out) if flags.out else Path("runs") / f"comparison-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    with making_folder(out):
        for name, frame in (("comparison.csv", table), ("paired.csv", paired)):
            with whole_file(out / name) as temporary:
                frame.to_csv(temporary)
        report.comparison_figure(out / "comparison.png", list(runs.values()))
    print(table.T.to_string(float_format=lambda value: f"{value:.4g}"))
    print("\nagainst the first run, paired by person: mean difference and 95 % t interval")
    print(paired.to_string(float_format=lambda value: f"{value:.4g}"))
    print(out / "comparison.csv")


def pair_people(folders):
    """Differences of every other run from the first, by person: a DataFrame with a row per run and metric."""
    import pandas as pd
    from scipy import stats

    people = [pd.read_csv(folder / "people.csv", dtype={"subject": str}).set_index("subject") for folder in folders]
    rows = []
    for folder, other in zip(folders[1:], people[1:], strict=True):
        shared = people[0].index.intersection(other.index)
        for name in ("ssim_brain", "psnr_brain", "mae_brain", "bits_per_code"):
            differences = (other.loc[shared, name] - people[0].loc[shared, name]).dropna()
            row = {"run": folder.name, "metric": name, "people": len(differences), "difference": differences.mean()}
            if len(differences) > 1:
                margin = stats.t.ppf(0.975, len(differences) - 1) * differences.sem()
                row |= {"low": row["difference"] - margin, "high": row["difference"] + margin}
            rows.append(row)
    return pd.DataFrame(rows).set_index(["run", "metric"])


if __name__ == "__main__":
    run_script(main)
