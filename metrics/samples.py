"""Samples against people: the sets that are compared, and the section samples of metrics.json."""

from dataclasses import dataclass, field

import numpy as np

from metrics.anatomy import ANATOMY, label_effects
from metrics.copies import plant_copies
from metrics.distances import set_distances, set_statistics, variety
from metrics.images import mean_spectrum
from metrics.nulls import NULL_DRAWS, band, draw_null, gaussian_images
from metrics.parts import sample_codes
from metrics.people import for_nulls, jackknife
from metrics.reasons import put
from metrics.sets import ImageSet, Yardstick, as_samples, sample_names
from slices.processes import parallel
from utils import random_generator, tracker

SAMPLE_SETS = 5


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
        pool: training people, as reconstructed, from whom nulls are drawn; pool_originals: their slices.
        samples: sets as long as the reference, with its labels and positions.
        search, all_samples, planted: training slices, the samples that are searched for among them, and copies that
            must be found.
        labels: list of str; ids count from 1.
        generators: reference generators by name, as long as the reference.
        codes: SearchCodes, or None where there are images only.
    """

    reference: ImageSet
    originals: ImageSet
    pool: ImageSet
    pool_originals: ImageSet
    samples: list
    search: ImageSet
    all_samples: ImageSet
    planted: ImageSet
    labels: list
    generators: dict = field(default_factory=dict)
    codes: SearchCodes = None


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
        sampling: temperature, top_k, top_p of the samples; the cache does not tell them apart.
    """
    held_out, training = parts[split], parts["train"]
    reference = held_out.image_set(held_out.reconstructions, rows)
    pool_rows = np.flatnonzero(for_nulls(training.slices["subject"].to_numpy()))
    pool_originals = training.image_set(training.crops, pool_rows)
    label, position = (held_out.columns[name][rows] for name in ("label", "position"))
    count = len(rows) if quick else max(SAMPLE_SETS * len(rows), num_samples)
    searched = len(rows) if quick else max(len(rows), num_samples)
    codes = sample_codes(run, cache, label, position, count, seed, **sampling)
    samples = repeat_conditions(reference, run.decode_crops(codes, "samples"))
    positional = run.decode_crops(
        baseline.draw(position, random_generator(seed, "positional samples")), "the positional baseline"
    )
    planted_codes, planted = plant_copies(run, cache, training, seed)
    return Sets(
        reference=reference,
        originals=held_out.image_set(held_out.crops, rows),
        pool=training.image_set(training.reconstructions, pool_rows),
        pool_originals=pool_originals,
        samples=[samples.take(slice(start, start + len(rows))) for start in range(0, count - len(rows) + 1, len(rows))][
            :SAMPLE_SETS
        ],
        generators={
            "positional": as_samples(reference, positional),
            "gaussian": as_samples(reference, gaussian_images(pool_originals, reference.position, seed)),
        },
        search=training.searched_set(training.reconstructions),
        all_samples=samples.take(slice(0, searched)),
        planted=planted,
        labels=run.labels,
        codes=SearchCodes(
            search=training.codes,
            samples=codes[:searched],
            reference=held_out.codes[rows],
            planted=planted_codes,
            pool_rows=pool_rows,
        ),
    )


def repeat_conditions(reference, images):
    """Images (N, H, W) uint8 as samples with the labels and positions of the reference, over and over."""
    place = np.arange(len(images)) % len(reference.images)
    return ImageSet(images, reference.label[place], reference.position[place], sample_names(len(images)))


def spectra_of(sets):
    """The mean spectra of slices, of their reconstructions where there are any, and of the first set of samples."""
    shown = {"slices": sets.originals, "reconstructions": sets.reference, "samples": sets.samples[0]}
    if sets.reference is sets.originals:
        del shown["reconstructions"]
    return {name: mean_spectrum(images.images) for name, images in shown.items()}


# ---- the section samples ------------------------------------------------------------------------


def measure_samples(sets, seed, notes):
    """The section samples of metrics.json, and the Yardstick.

    Args:
        sets: Sets.
        seed: int from 0, of the principal components and of the people of the null bands.
        notes: list of str, to which is added what a reader must know.
    """
    yardstick = Yardstick(sets.pool_originals, seed, tracker("yardstick", len(sets.pool.images)))
    described = describe_sets(sets, yardstick)
    reference, originals = described["reference"], described["originals"]
    reference_variety = variety(reference)

    def statistics(images):
        return set_statistics(images, reference, originals, yardstick.shape_rms, reference_variety)

    def null(draw):
        return statistics(draw_null(described["pool"], reference, seed, draw)[0])

    nulls = parallel(null, range(NULL_DRAWS), tracker("null band", NULL_DRAWS)) if "pool" in described else []
    judged = [name for name in described if name not in ("reference", "originals", "pool")]
    measured = dict(
        zip(
            judged,
            parallel(lambda name: statistics(described[name]), judged, tracker("statistics", len(judged))),
            strict=True,
        )
    )
    intervals = jackknife(
        lambda *three: set_distances(*three, yardstick.shape_rms),
        [described["set 1"], reference, originals],
        reference.person,
    )
    result = {"sets": len(sets.samples), "null_draws": len(nulls), "slices_per_set": len(reference.images)}
    anatomy = put_statistics(result, measured, nulls, intervals, sets.generators)
    both = variety(originals)
    put(
        result,
        "diversity_reconstruction",
        reference_variety / both if both and reference_variety else None,
        "diversity",
    )
    result["anatomy"] = anatomy | label_effects(described, sets.labels)
    note_sizes(notes, yardstick, reference)
    return result, yardstick


def describe_sets(sets, yardstick):
    """The DescribedSets by name: reference, originals, pool where there is one, the generators, set 1 and so on."""
    named = {
        "reference": sets.reference,
        "originals": sets.originals,
        "pool": sets.pool,
        **sets.generators,
        **{f"set {i + 1}": one for i, one in enumerate(sets.samples)},
    }
    return {
        name: yardstick.describe(images, tracker(f"describing {name}", len(images.images)))
        for name, images in named.items()
        if len(images.images)
    }


def put_statistics(result, measured, nulls, intervals, generators):
    """Put every statistic of the first set into ``result``, with its null band, spread and the generators' beside it.

    Args:
        measured: dict of set → dict of statistics.
        nulls: list of dicts of statistics, one a draw.
        intervals: those of the first set that have intervals.
        generators: names of reference generators.

    Returns:
        the statistics of anatomy, a dict of the same kind.
    """
    anatomy = {}
    sets = [statistics for name, statistics in measured.items() if name.startswith("set ")]
    for name, value in sets[0].items():
        target = anatomy if name.rpartition("_")[0] in ANATOMY else result
        put(target, name, intervals.get(name, value), name)
        put(target, f"{name}_null", band(null[name] for null in nulls), name if nulls else "null")
        put(target, f"{name}_spread", band(one[name] for one in sets) if len(sets) > 1 else None, "spread")
        for generator in generators:
            put(target, f"{name}_{generator}", measured[generator][name], name)
    return anatomy


def note_sizes(notes, yardstick, reference):
    """Add to the notes what there were too few slices or people for."""
    components = yardstick.pca.n_components_
    if components < 32:
        notes.append(f"{components} principal components, which is what there are slices for")
    people = len(set(reference.person))
    if people < 5:
        notes.append(f"{people} folds in the two-sample classifier, one a person")
