"""Samples against people: the sets that are compared, and the section samples of metrics.json."""

from dataclasses import dataclass, field

import numpy as np

from metrics.anatomy import label_effects, lopsided
from metrics.copies import plant_copies
from metrics.distances import distance_intervals, set_statistics
from metrics.images import mean_spectrum
from metrics.measured import ImageSet, as_samples, join, replace_images, sample_names
from metrics.nulls import (
    NULL_DRAWS,
    band,
    enough_people,
    gaussian_images,
    halve,
    people_by_label,
    people_of_labels,
    random_split,
)
from metrics.parts import sample_codes
from metrics.people import for_nulls
from metrics.reasons import put
from metrics.sets import Yardstick
from metrics.verdicts import LEVEL, judge
from report.numbers import TOLD_APART
from slices.processes import parallel
from utils import evenly, random_generator, tracker


@dataclass
class SearchCodes:
    """The codes (N, h, w) int32 of the sets that copies are searched in and for.

    Attributes:
        search, samples, reference, planted: those of the sets search, all_samples, reference and planted.
        pool_rows: the rows of ``search`` that the pool consists of.
    """

    search: np.ndarray
    samples: np.ndarray
    reference: np.ndarray
    planted: np.ndarray
    pool_rows: np.ndarray


@dataclass
class Sets:
    """Every set of images that samples are measured with.

    Attributes:
        reference: reconstructions of slices of unseen people; originals: these slices.
        fitted: slices of the half of the training people that the yardstick is fitted on.
        pool: the other half, as reconstructed, from whom nulls are drawn; pool_originals: their slices.
        samples: as long as the reference, with its labels and positions, as their codes are decoded.
        pictures: the samples as they are shown, sharpened; None where the run has no sharpening.
        search, all_samples, planted: training slices, the samples that are searched for among them, and copies that
            must be found.
        labels: list of str; ids count from 1.
        generators: reference generators by name, as long as the reference.
        codes: SearchCodes, or None where there are images only.
    """

    reference: ImageSet
    originals: ImageSet
    fitted: ImageSet
    pool: ImageSet
    pool_originals: ImageSet
    samples: ImageSet
    search: ImageSet
    all_samples: ImageSet
    planted: ImageSet
    labels: list
    generators: dict = field(default_factory=dict)
    codes: SearchCodes = None
    pictures: ImageSet = None

    @property
    def shown(self):
        """The samples as a reader sees them."""
        return self.pictures or self.samples


def gather_sets(run, cache, parts, split, rows, baseline, seed=0, num_samples=1000, quick=False, **sampling):
    """The Sets of a run.

    Args:
        run: sampling.run.Run.
        cache: metrics.parts.Cache of the run.
        parts: dict of split → Part.
        split: the one whose slices are the reference.
        rows: (N,) int, which of them.
        baseline: PositionalBaseline.
        seed: int from 0, of everything random.
        num_samples: how many samples copies are searched for in, N at least.
        quick: whether to draw only N samples.
        sampling: temperature, top_k, top_p, guidance: as in ``Run.sample``; the cache does not tell them apart.
    """
    held_out, training = parts[split], parts["train"]
    reference = held_out.image_set(held_out.reconstructions, rows)
    fitted_rows, pool_rows = half_rows(training, seed)
    fitted = training.image_set(training.crops, fitted_rows)
    label, position = (held_out.columns[name][rows] for name in ("label", "position"))
    searched = len(rows) if quick else max(len(rows), num_samples)
    codes = sample_codes(run, cache, label, position, searched, seed, **sampling)
    samples = repeat_conditions(reference, run.decode_crops(codes, "samples"))
    judged = samples.take(slice(0, len(rows)))
    positional = run.decode_crops(
        baseline.draw(position, random_generator(seed, "positional samples")), "the positional baseline"
    )
    planted_codes, planted = plant_copies(run, cache, training, seed)
    return Sets(
        reference=reference,
        originals=held_out.image_set(held_out.crops, rows),
        fitted=fitted,
        pool=training.image_set(training.reconstructions, pool_rows),
        pool_originals=training.image_set(training.crops, pool_rows),
        samples=judged,
        pictures=replace_images(judged, run.sharpened(judged.images)) if run.sharpening else None,
        generators={
            "positional": as_samples(reference, positional),
            "gaussian": as_samples(reference, gaussian_images(fitted, reference.position, seed)),
        },
        search=training.searched_set(training.reconstructions),
        all_samples=samples,
        planted=planted,
        labels=run.labels,
        codes=SearchCodes(
            search=training.codes,
            samples=codes,
            reference=held_out.codes[rows],
            planted=planted_codes,
            pool_rows=pool_rows,
        ),
    )


def half_rows(training, seed):
    """Rows of a Part that the yardstick is fitted on, and those from whose people nulls are drawn: (N,) int each."""
    person = training.slices["subject"].to_numpy().astype(str)
    drawn = for_nulls(person)
    halves = halve(person[drawn], training.columns["label"][drawn], seed)
    return [np.flatnonzero(drawn)[half] for half in halves]


def no_more_than_the_pool(reference, pool):
    """(N,) bool: the slices of a reference that are kept, for nulls need as many people of each label in the pool.

    Args:
        reference, pool: ImageSets.
    """
    available = people_by_label(pool)
    kept = [
        evenly(names, available.get(label) or len(names))
        for label, names in people_of_labels(reference.person, reference.label).items()
    ]
    return np.isin(reference.person, np.concatenate(kept))


def repeat_conditions(reference, images):
    """Images (N, H, W) uint8 as samples with the labels and positions of the reference, over and over."""
    place = np.arange(len(images)) % len(reference.images)
    return ImageSet(images, reference.label[place], reference.position[place], sample_names(len(images)))


def spectra_of(sets):
    """The mean spectra of slices, of their reconstructions where there are any, and of samples."""
    shown = {"slices": sets.originals, "reconstructions": sets.reference, "samples": sets.shown}
    if sets.reference is sets.originals:
        del shown["reconstructions"]
    return {name: mean_spectrum(images.images) for name, images in shown.items()}


# ---- the section samples ------------------------------------------------------------------------


def measure_samples(sets, seed, notes, other_people=True):
    """The section samples of metrics.json, and the Yardstick.

    Args:
        sets: Sets.
        seed: int from 0, of the principal components and of the random splits of the null bands.
        notes: list of str, to which is added what a reader must know.
        other_people: whether to draw the band of another group of people, which no verdict needs.
    """
    yardstick = Yardstick(sets.fitted, seed, tracker("yardstick", len(sets.fitted.images)))
    described = describe_sets(sets, yardstick)
    why_no_null = "there are no training people to draw from" if not len(sets.pool.images) else None
    why_no_null = why_no_null or enough_people(sets.fitted, sets.pool, sets.reference)
    draws = [] if why_no_null else draw_splits(sets, seed)
    draws = draws if other_people else [draw._replace(other_people=None) for draw in draws]
    result = {
        "slices_per_set": len(sets.reference.images),
        "people": len(set(sets.reference.person)),
        "fitted_people": len(set(sets.fitted.person)),
        "null_people": len(set(sets.pool.person) | set(sets.reference.person)) if draws else 0,
        "null_draws": len(draws),
        "level": LEVEL,
    }
    for name, reference, pool in (
        ("against_real", "originals", "pool_originals"),
        ("against_reconstructions", "reference", "pool"),
    ):
        if reference not in described:
            result |= {name: None, f"{name}_why": "these images have no codes, and so no reconstructions"}
            continue
        pooled = join(described[pool], described[reference]) if draws else None
        judged = "pictures" if name == "against_real" and "pictures" in described else "samples"
        result[name] = measure_against(
            name,
            described | {"samples": described[judged]},
            list(sets.generators),
            described[reference],
            pooled,
            draws,
            yardstick.shape_rms,
            why_no_null,
        )
    drawn, others = described.get("pictures", described["samples"]), described.get("pool_originals")
    result["lopsided"] = lopsided(drawn, described["originals"])
    result["lopsided_people"] = others and lopsided(others, described["originals"])
    result["label_effects"] = label_effects(described["originals"], described["samples"], sets.labels)
    if why_no_null:
        notes.append(f"{why_no_null}: no null bands and no verdicts")
    note_sizes(notes, yardstick, sets.reference)
    return result, yardstick


def describe_sets(sets, yardstick):
    """The DescribedSets by name, those of Sets; reconstructions that are the slices themselves are left out."""
    has_codes = sets.reference is not sets.originals
    named = {
        "originals": sets.originals,
        "pool_originals": sets.pool_originals,
        **({"reference": sets.reference, "pool": sets.pool} if has_codes else {}),
        "samples": sets.samples,
        **({"pictures": sets.pictures} if sets.pictures else {}),
        **sets.generators,
    }
    return {
        name: yardstick.describe(images, tracker(f"describing {name.replace('_', ' ')}", len(images.images)))
        for name, images in named.items()
        if len(images.images)
    }


def draw_splits(sets, seed):
    """The NULL_DRAWS random splits of the people on whom nothing was fitted: pool, then reference."""
    people = join(*(replace_images(one, np.zeros(len(one.person))) for one in (sets.pool, sets.reference)))
    count = people_by_label(sets.reference)
    return [random_split(people, count, seed, draw) for draw in range(NULL_DRAWS)]


def measure_against(name, described, generators, reference, pooled, draws, shape_rms, why_no_null):
    """Samples, and the bad generators, against one reference, with null bands and verdicts: a dict.

    Args:
        name: of the reference, for the progress bar.
        described: dict of DescribedSets.
        generators: list of str, which of them are bad generators.
        reference: DescribedSet.
        pooled: DescribedSet of all people on whom nothing was fitted.
        draws: list of Draws, of rows of it.
        why_no_null: where there are none.
    """
    measured = {
        name: set_statistics(described[name], reference, reference.person, shape_rms)
        for name in ("samples", *generators)
    }

    def null(draw):
        drawn, perfect = pooled.take(draw.reference), pooled.take(draw.perfect_prior)
        score = set_statistics(perfect, drawn, drawn.person, shape_rms)
        if draw.other_people is None:
            return score, dict.fromkeys(score)
        others = pooled.take(draw.other_people)
        return score, set_statistics(others, drawn, others.person, shape_rms)

    track = tracker(f"null bands {name.replace('_', ' ')}", len(draws))
    nulls = parallel(null, draws, track) if draws else []
    perfect, others = ([one[side] for one in nulls] for side in (0, 1))
    values = measured["samples"]
    verdicts = judge(values, perfect)
    intervals = distance_intervals(described["samples"], reference, shape_rms)
    result = {"tests": sum(p is not None for p, _ in verdicts.values())}
    result["told_apart"] = [name for name, (_, verdict) in verdicts.items() if verdict == TOLD_APART]
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        target = result.setdefault(section, {}) if section else result
        p, verdict = verdicts[name]
        put(target, key, intervals.get(name, value), key)
        bands = [band(one[name] for one in side) for side in (perfect, others)]
        put(
            target,
            f"{key}_null",
            {"perfect_prior": bands[0], "other_people": bands[1]} if bands[0] else None,
            why_no_null,
        )
        put(target, f"{key}_p", p, why_no_null)
        target[f"{key}_verdict"] = verdict
        for generator in generators:
            put(target, f"{key}_{generator}", measured[generator][name], key)
    return result


def note_sizes(notes, yardstick, reference):
    """Add to the notes what there were too few slices or people for."""
    components = yardstick.pca.n_components_
    if components < 32:
        notes.append(f"{components} principal components, which is what there are slices for")
    people = len(set(reference.person))
    if people < 5:
        notes.append(f"{people} folds in the two-sample classifiers, one a person")
