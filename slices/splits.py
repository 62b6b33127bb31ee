"""Splits: whole people to train, validation and test; and the images that are in two of them all the same."""

import pandas as pd

from slices.images import first_of
from slices.names import ids_of
from utils import UserError, counted, random_generator, warn


def split_by_subject(slices, seed, validation_fraction=0.15, test_fraction=0.2, allow_overlap=False):
    """Give every slice its split, whole people at a time.

    What the folders say stays. A missing test split is carved from the training people, then a missing
    validation split (at least one person of each label that has two), label by label.

    Args:
        slices: the index, in any order.
        seed: int; the outcome is a function of the seed and of who there is.
        validation_fraction, test_fraction: of each label's people, from 0 to 1.
        allow_overlap: go on, with a warning, when the folders share people between splits.

    Returns:
        a copy of the index whose split is train, validation or test in every row.

    Raises:
        UserError: people, or the ids in the paths, are in several splits; or a label has a name that means none.
    """
    if "none" in set(slices["label"]):
        raise UserError(
            "a label is called none, which --label takes for the model without a label: rename the folder none"
        )
    slices = slices.assign(split=slices["split"].where(slices["split"] != "", "train"))
    given = set(slices["split"])
    _check_overlap(slices, allow_overlap)
    if "test" not in given:
        slices = _carve(slices, "test", test_fraction, 0, seed)
    if "validation" not in given:
        slices = _carve(slices, "validation", validation_fraction, 1, seed)
    _check_ids(slices, allow_overlap)
    return slices


def _check_overlap(slices, allow_overlap):
    pairs = slices[["subject", "split"]].drop_duplicates()
    people = {split: set(group) for split, group in pairs.groupby("split")["subject"]}
    shared = sorted(pairs["subject"][pairs["subject"].duplicated()].unique())
    if not shared:
        return
    counts = ", ".join(f"{len(people[split])} in {split}" for split in sorted(people))
    places = slices[slices["subject"] == shared[0]].drop_duplicates("split")["path"]
    sentence = f"the folders share {counted(len(shared), 'person')} between splits ({counts}), such as {shared[0]} "
    _refuse(f"{sentence}({', '.join(sorted(places))})", allow_overlap)


def _refuse(sentence, allow_overlap):
    """Refuse people in two splits with a sentence that says who; or warn of them."""
    if not allow_overlap:
        raise UserError(f"{sentence}: held-out measures would be too good; --allow-overlap goes on all the same")
    warn(f"{sentence}: held-out measures will be too good")


def _check_ids(slices, allow_overlap):
    """Refuse subject ids and ADNI image ids that are in the paths of two splits, whoever the people are said to be.

    One id with one person was judged before, by the folders.
    """
    ids = slices["path"].map(ids_of)
    found = slices.assign(id=ids)[ids.map(bool)].explode("id")
    by_id = found.groupby("id")[["split", "subject"]].nunique()
    shared = by_id.index[(by_id["split"] > 1) & (by_id["subject"] > 1)]
    if len(shared):
        first = found[found["id"] == shared[0]].drop_duplicates("split")
        where = ", ".join(f"{row.path} in {row.split}" for row in first.itertuples())
        sentence = f"{counted(len(shared), 'id')} found in several splits, though of other people to --metadata, "
        _refuse(f"{sentence}--subject-pattern or the folders, such as {shared[0]} ({where})", allow_overlap)


def _carve(slices, target, fraction, least, seed):
    """Move a fraction of the training people of each label, at least ``least``, to the split ``target``."""
    train = slices[slices["split"] == "train"]
    counts = train.groupby(["subject", "label"]).size().reset_index(name="count")
    people = counts.sort_values(["count", "label"], kind="stable").drop_duplicates("subject", keep="last")
    chosen = set()
    for label, group in people.groupby("label"):
        subjects = sorted(group["subject"])
        if len(subjects) == 1:
            if target == "validation":
                warn(f"the label {label} has a single person in train, who stays there: none is left for validation")
            continue
        count = min(max(round(fraction * len(subjects)), least if fraction > 0 else 0), len(subjects) - 1)
        order = random_generator(seed, f"{target} split, {label}").permutation(len(subjects))
        chosen.update(subjects[i] for i in order[:count])
    moved = slices["subject"].isin(chosen) & (slices["split"] == "train")
    return slices.assign(split=slices["split"].mask(moved, target))


def warn_of_leakage(slices, loaded, others=None, digests=()):
    """Tell which images are in more than one split, by their pixels; images without a brain do not count.

    Args:
        slices: DataFrame with path and split of the N usable images.
        loaded: their LoadedImages.
        others: DataFrame with path and split of images that are not loaded.
        digests: list of str, those of the others' pixels.

    Returns:
        The number of images that are in another split, too.
    """
    table = slices.assign(digest=loaded.digests)[loaded.brain_boxes[:, 2] > 0]
    if others is not None:
        others = others.assign(digest=list(digests))
        table = pd.concat([table, others[others["digest"].isin(table["digest"])]])
    shared = table[table.groupby("digest")["split"].transform("nunique") > 1]
    if len(shared):
        same = [" = ".join(paths) for _, paths in shared.groupby("digest", sort=False)["path"]]
        warn(
            f"{counted(len(same), 'image')} found in more than one split under different names, so that models are "
            f"judged on what they have seen: remove all but one of each{first_of(same)}"
        )
    return len(shared)
