"""The numbers of metrics.json in words: which of them matter, what they mean, and which are told apart."""

from collections import Counter
from dataclasses import dataclass
from functools import partial

REFERENCES = {  # what samples are set against, in words, and what that asks; the first is the headline
    "against_real": ("real slices", "would you take it for one?"),
    "against_reconstructions": ("reconstructions", "is the prior right?"),
}
TOLD_APART, CONSISTENT, CANNOT_TELL = "told apart", "consistent", "cannot tell"
WORSE_THAN_NULL = "worse than its null"
MEASURES = {  # of samples against a reference: key → name, digits, what it means; WORSE says which side is bad
    "two_sample_auc": (
        "two-sample AUC",
        3,
        "how well a classifier tells samples from the reference; 0.5 is not at all",
    ),
    "two_sample_auc_shape": ("two-sample AUC, shape", 3, "the same from the shape of the slice alone"),
    "two_sample_auc_texture": ("two-sample AUC, texture", 3, "the same from its texture alone"),
    "detail_auc": ("AUC of fine detail", 3, "one number alone, the strength of fine detail; 0.5 tells nothing"),
    "spectrum_gap": (
        "missing power",
        3,
        "mean |log10| of samples' over the reference's power in the upper half of frequencies; 0.3 is a factor of two",
    ),
    "noise_ratio": ("noise in flat tissue", 3, "its strength in samples over that in the reference; 1 is as much"),
    "frechet": ("Fréchet distance", 2, "how far samples lie from the reference in shape and pose"),
    "kid": ("kernel distance", 3, "the same with a kernel that sees more than means and covariances"),
    "patches": ("patch distance", 3, "texture of small patches of the brain"),
    "diversity": ("diversity", 3, "differences among samples over differences among people; below 1 they are alike"),
    "anatomy.ventricle_area_effect": (
        "ventricle area (effect size)",
        2,
        "samples minus real people, in units of the spread of the reference",
    ),
}
MANIFOLD = {
    name: (name, 3, "Naeem et al. 2020, radii by person") for name in ("precision", "recall", "density", "coverage")
}
MODELS = (  # section, key ("{split}" is filled in), name, digits, what it means
    (
        "reconstruction",
        "ssim_brain",
        "SSIM in the brain",
        3,
        "likeness of slices and their reconstructions, the black left out; 1 is the same image",
    ),
    (
        "reconstruction",
        "frc_resolution",
        "resolution (cycles/pixel)",
        3,
        "up to here the detail of a reconstruction is that of the slice; 0.5 is all of it",
    ),
    (
        "reconstruction",
        "tissue_dice",
        "tissue overlap (Dice)",
        3,
        "CSF, grey matter, white matter and ventricles segmented in both; 1 is the same place",
    ),
    ("rate", "bits_per_image_prior", "bits per image under the prior", 0, "what an unseen slice's codes cost"),
    ("prior", "bits_per_code_{split}", "bits per code", 3, "the prior's surprise at unseen people; less is better"),
    (
        "memorisation",
        "nn_ratio",
        "nearest-neighbour ratio",
        3,
        "distance of samples to their nearest training slice over that of unseen people; below the null is copying",
    ),
    (
        "memorisation",
        "copies_fraction",
        "share of copies",
        3,
        "samples as near to a training slice as planted copies, less the share of unseen people's that are",
    ),
    (
        "usefulness",
        "auc_samples",
        "label AUC, trained on samples",
        3,
        "a small classifier of the label, trained on samples, tested on real unseen people",
    ),
)

WORSE = {
    **dict.fromkeys(("frechet", "kid", "patches", "spectrum_gap", "detail_auc", "copies_fraction"), "high"),
    **dict.fromkeys(("two_sample_auc", "two_sample_auc_shape", "two_sample_auc_texture"), "high"),
    **dict.fromkeys(("precision", "recall", "density", "coverage", "nn_ratio"), "low"),
}  # either side is for every other


@dataclass(frozen=True)
class Row:
    """A number of the summary, in words.

    Attributes:
        section: of metrics.json; of samples, "against_real" or "against_reconstructions".
        name, value, meaning: what it is called, what it is and what that means.
        perfect_prior, other_people: its null bands, "–" for none. What is set against training people without their
            own slices, of the section memorisation, has that band as ``other_people``.
        verdict: "told apart", "consistent", "cannot tell", "worse than its null", or "" where there is none.
    """

    section: str
    name: str
    value: str
    perfect_prior: str
    other_people: str
    verdict: str
    meaning: str

    @property
    def against(self):
        """What samples are set against, in words; "" for what is no number of samples."""
        return REFERENCES.get(self.section, ("",))[0]

    @property
    def is_red(self):
        """Whether it is to be painted red."""
        return self.verdict in (TOLD_APART, WORSE_THAN_NULL)


def value_of(metric):
    """The number of a metric that may carry an interval."""
    return metric["value"] if isinstance(metric, dict) else metric


def lookup(metrics, section, key):
    """A metric by its section, or reference, and its (dotted) key, or None."""
    value = (metrics.get("samples") or {}).get(section) if section in REFERENCES else metrics.get(section)
    for part in key.format(split=metrics["split"]).split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def band_of(null):
    """[median, low, high] of a null, that of a perfect prior where it has two; None for none."""
    if null is None:
        return None
    return null["perfect_prior"] if "perfect_prior" in null else [null[end] for end in ("value", "low", "high")]


def judged(section, prefix=""):
    """Every number of a reference that has a verdict: its dotted key, the dict that it is in, and its name there."""
    for name, value in section.items():
        if f"{name}_verdict" in section:
            yield prefix + name, section, name
        elif isinstance(value, dict) and name in ("spectrum", "anatomy"):
            yield from judged(value, f"{prefix}{name}.")


def plain_name(key):
    """What a number of samples is called, by its dotted key."""
    if key in MEASURES:
        return MEASURES[key][0]
    group, _, name = key.rpartition(".")
    words = name.replace("_effect", " (effect size)").replace("_", " ").replace("csf", "CSF")
    return f"power, {words}" if group == "spectrum" else words


def shown(metric, digits, unknown="–"):
    """A metric as text: a number, with its interval in brackets where it has one; ``unknown`` for None."""
    if metric is None:
        return unknown
    if isinstance(metric, dict):
        return f"{metric['value']:,.{digits}f} [{metric['low']:,.{digits}f}, {metric['high']:,.{digits}f}]"
    return f"{metric:,.{digits}f}"


def shown_band(band, digits):
    """A null band (median, low, high) as text, "–" for None."""
    return "–" if band is None else shown(dict(zip(("value", "low", "high"), band, strict=True)), digits)


def is_worse(key, value, null):
    """Whether a metric lies beyond the bad side of its plain null band {value, low, high}."""
    number, side = value_of(value), WORSE.get(key.rpartition(".")[2])
    return (side != "low" and number > null["high"]) or (side != "high" and number < null["low"])


def summary_rows(metrics):
    """The Rows of the summary: numbers of samples first, against real slices above against reconstructions."""
    measures = MEASURES | (MANIFOLD if metrics["people"] >= 50 else {})
    of_samples = [(reference, key, *words) for key, words in measures.items() for reference in REFERENCES]
    there = {**metrics, **(metrics.get("samples") or {})}
    return [summary_row(metrics, *entry) for entry in (*of_samples, *MODELS) if there.get(entry[0]) is not None]


def summary_row(metrics, section, key, name, digits, meaning):
    """One Row of the summary; what has no value or no null says why instead of what it means."""
    value, null, verdict = (lookup(metrics, section, key + ending) for ending in ("", "_null", "_verdict"))
    whys = [lookup(metrics, section, f"{key}{ending}_why") for ending in ("", "_null", "_verdict")]
    bands = {"perfect_prior": None, "other_people": None}
    if section in REFERENCES:
        bands = {which: (null or {}).get(which) for which in bands}
    elif null is not None:
        bands["other_people"] = band_of(null)
        verdict = WORSE_THAN_NULL if value is not None and is_worse(key, value, null) else ""
    return Row(
        section=section,
        name=name,
        value=shown(value, digits),
        **{which: shown_band(band, digits) for which, band in bands.items()},
        verdict=verdict or "",
        meaning=next((why for why in whys if why), meaning),
    )


def verdict_sentences(metrics):
    """How many numbers of samples are told apart, a sentence for each reference, and how many would be by chance."""
    samples = metrics.get("samples") or {}
    sentences, any_told = [], False
    for reference, (against, question) in REFERENCES.items():
        start, section = f"Against {against} ({question})", samples.get(reference)
        if section is None:
            if why := samples.get(f"{reference}_why"):
                sentences.append(f"{start}: not measured, {why}.")
            continue
        found = list(judged(section))
        counts = Counter(values[f"{name}_verdict"] for _, values, name in found)
        if counts[CANNOT_TELL] == len(found):
            whys = [values.get(f"{name}_{ending}_why") for _, values, name in found for ending in ("verdict", "null")]
            why = next((why for why in whys if why), None)
            sentences.append(f"{start}: cannot tell{f', {why}' if why else ''}.")
            continue
        any_told = True
        sentences.append(
            f"{start}: {counts[TOLD_APART]} of {len(found)} numbers are told apart, {counts[CONSISTENT]} are "
            f"consistent with a perfect prior, {counts[CANNOT_TELL]} cannot tell."
        )
    if any_told:
        sentences.append(
            f"By chance: a perfect generator gets any red verdict at all in at most {100 * samples['level']:g} % of "
            "evaluations, for each reference (Holm's correction over its numbers)."
        )
    return sentences


def attack_rows(memorisation):
    """The membership attacks in words: (of "weights" or "samples", name, AUC, people, told, meaning)."""
    attacks = memorisation.get("membership") or {}
    return [
        (
            attack["of"],
            name.replace("_", " "),
            shown({"value": attack["auc"], "low": attack["low"], "high": attack["high"]}, 2),
            str(attack["people"]),
            f"{100 * attack['told']:.0f} % at {100 * attack['false_alarm']:.1f} % false alarms",
            attack["meaning"],
        )
        for name, attack in attacks.items()
        if isinstance(attack, dict)
    ]


def print_summary(metrics):
    """The summary in the terminal."""
    print(f"{metrics['run']}: {metrics['split']}, {metrics['people']} people, {metrics['slices']} slices")
    for note in metrics["notes"]:
        print(f"  note: {note}")
    for sentence in verdict_sentences(metrics):
        print(f"  {sentence}")
    rows = summary_rows(metrics)
    for group in (*REFERENCES, None):
        found = [row for row in rows if (row.section if row.section in REFERENCES else None) == group]
        if found:
            print(f"  against {REFERENCES[group][0]}:" if group else "  and besides:")
        for row in found:
            print(f"    {row.name:30} {row.value:28}{null_in_words(row)}{f'  {row.verdict}' if row.verdict else ''}")
    if "memorisation" in metrics:
        print(f"  {metrics['memorisation']['verdict']}")
        for of, name, auc, _, told, _ in attack_rows(metrics["memorisation"]):
            print(f"    {f'membership, {of}: {name}':50} AUC {auc}, told {told}")


def null_in_words(row):
    """The null band of a Row for the terminal, that of a perfect prior where there is one."""
    if row.perfect_prior != "–":
        return f"  perfect prior {row.perfect_prior}"
    return "" if row.other_people == "–" else f"  null {row.other_people}"


def print_measurement(metrics):
    """The closing lines of a training."""
    reconstruction, codebook = metrics["reconstruction"], metrics["codebook"]
    told = partial(shown, unknown="unknown")
    print(
        f"{metrics['split']} people: {metrics['people']} ({metrics['slices']} slices); means over people, "
        "95 % intervals in brackets"
    )
    print(
        f"  SSIM {told(reconstruction['ssim'], 3)}, brain only {told(reconstruction['ssim_brain'], 3)}; "
        f"PSNR {told(reconstruction['psnr'], 2)} dB, brain only {told(reconstruction['psnr_brain'], 2)} dB"
    )
    print(
        f"  {metrics['rate']['bits_per_image']:.0f} bits per image; {100 * codebook['used_fraction']:.1f} % of the "
        f"codes in use, perplexity {codebook['perplexity']:.1f}"
    )
    if "prior" in metrics:
        prior = metrics["prior"]
        bits, unigram = prior[f"bits_per_code_{metrics['split']}"], prior["unigram_bits_per_code"]
        print(
            f"  prior: {told(bits, 3)} bits per code; unigram {unigram:.3f} "
            f"({set_against(value_of(bits), unigram)}), uniform {prior['uniform_bits_per_code']:.3f}"
        )


def set_against(number, other):
    """How far a number of 0 or more lies from another, in words: "43.0 % below it"."""
    if number <= other:
        return f"{100 * (1 - number / other):.1f} % below it" if other else "both are 0"
    if number <= 2 * other:
        return f"{100 * (number / other - 1):.1f} % above it: worse than counting codes"
    return "more than twice it: worse than counting codes"
