"""The audit: planted copies are found, and nothing else; and whether samples are of use."""

from types import SimpleNamespace

import numpy as np
import pytest
from test_array_file import filled
from test_sets import brains, measure_brains

from metrics import copies
from metrics.copies import CopySearch, nearest_windows, shift_and_gain
from metrics.measured import as_samples
from metrics.memorisation import DRAWS, SAME, draw_people, measure_memorisation, share_beyond
from metrics.sets import Yardstick
from metrics.usefulness import measure_usefulness
from slices.frame import brain_mask


@pytest.fixture(scope="module")
def measured():
    return measure_brains()


def test_planted_copies_are_found_whatever_their_shift_mirror_and_gain(measured):
    search, random = CopySearch(measured.training), np.random.default_rng(0)
    rows = random.integers(0, 48, 20)
    copies = shift_and_gain(measured.training.images[rows][..., ::-1], random)
    distance, found = search.nearest(as_samples(measured.training.take(rows), copies), "copies")
    assert np.array_equal(found, rows)
    unseen, _ = search.nearest(measured.unseen, "unseen")
    assert distance.max() < unseen.min()


def all_at_once(training, queries):
    """Distances and rows of the nearest images as they were found with all of the training images in one array.

    Each of the likeliest candidates is compared one by one, at every shift, by the correlation in the mask.
    """
    search = CopySearch(training)
    details = np.stack([search.detail(image) for image in training.images])
    n = len(details)
    coarse = np.concatenate([search.coarse(details), search.coarse(details[..., ::-1])])
    found = []
    for image, person in zip(queries.images, queries.person, strict=True):
        query, mask = search.detail(image), brain_mask(image)
        shifted = np.stack([np.roll(query, (2 * y - 2, 2 * x - 2), (0, 1)) for y, x in np.ndindex(3, 3)])
        likeness = (coarse @ search.coarse(shifted).T).max(axis=1)
        likeness[np.tile(training.person, 2) == person] = -2
        best = -2, 0
        for row in np.argsort(-likeness)[: min(search.CANDIDATES, (likeness > -2).sum())]:
            padded = np.pad(details[row % n][:, :: -1 if row >= n else 1], search.SHIFT).astype(float)
            for y, x in np.ndindex(7, 7):
                window = padded[y : y + len(image), x : x + image.shape[1]][mask]
                best = max(best, (np.corrcoef(query[mask].astype(float), window)[0, 1], int(row % n)))
        found.append((1 - best[0], best[1]))
    return map(np.array, zip(*found, strict=True))


@pytest.mark.parametrize("in_a_file", [False, True])
def test_a_search_by_blocks_finds_what_one_over_everything_finds(measured, in_a_file, tmp_path, monkeypatch):
    training, queries = measured.training.take(slice(None)), measured.training.take(slice(3, 21))
    distances, rows = all_at_once(training, queries)
    monkeypatch.setattr(copies, "TRAINING_BLOCK", 7)
    monkeypatch.setattr(copies, "QUERY_BLOCK", 5)
    if in_a_file:
        training.images = filled(tmp_path, training.images)
    found, nearest = CopySearch(training).nearest(queries, "slices of the same people")
    assert np.array_equal(nearest, rows) and np.allclose(found, distances, atol=1e-5)
    assert (training.person[nearest] != queries.person).all()


def audit(measured, samples, codes=None):
    """measure_memorisation of samples, with planted copies as for folders."""
    random = np.random.default_rng(1)
    rows = random.integers(0, len(measured.training.images), 40)
    planted = measured.training.take(rows)
    planted.images, planted.person = shift_and_gain(planted.images, random), np.full(40, "planted")
    return measure_memorisation(
        SimpleNamespace(
            reference=measured.unseen,
            pool=measured.training,
            search=measured.training,
            codes=codes,
            planted=planted,
            all_samples=samples,
        ),
        0,
    )


def test_one_per_cent_of_copies_among_a_thousand_samples_is_found():
    training, sound = brains(60, seed=1), brains(250, seed=5, prefix="s")
    measured = SimpleNamespace(training=training, unseen=brains(30, seed=2, prefix="r"))
    everyone = as_samples(sound, sound.images.copy())
    result, _ = audit(measured, everyone)
    assert not result["flagged"] and result["verdict"].startswith("no copies found by a search that finds 95 %")
    everyone.images[:10] = measured.training.images[:40:4]
    result, nearest = audit(measured, everyone)
    assert result["flagged"] and result["verdict"].startswith("copies found")
    assert result["copies_fraction"] == pytest.approx(0.01, abs=0.002) and result["people_copied"] == 10
    assert {sample for sample, _, _ in nearest} == set(range(10))


def test_fewer_copies_than_among_unseen_people_are_none_and_the_reason_stands_beside_it(measured):
    assert share_beyond("copies", 0.03, 0.01) == {"copies": pytest.approx(0.02)}
    assert share_beyond("copies", 0.01, 0.01) == {"copies": 0.0}
    less = share_beyond("copies", 0.0, 0.025)
    assert less["copies"] == 0.0 and "0.0 % of samples" in less["copies_why"] and "2.5 % of" in less["copies_why"]


def test_a_ratio_to_unseen_people_who_are_training_people_is_null(measured):
    """No distance is below 0, and none is divided by 0."""
    same = SimpleNamespace(**vars(measured) | {"unseen": as_samples(measured.training, measured.training.images)})
    result, nearest = audit(same, as_samples(measured.unseen, measured.unseen.images))
    assert result["audit_false_alarm"] == 1 and result["copies_fraction"] == 0 and result["copies_fraction_why"]
    assert result["nn_ratio"] is None and "look the same as one of training" in result["nn_ratio_why"]
    assert result["nn_ratio_null"] is None and result["nn_ratio_null_why"]
    copies, _ = CopySearch(measured.training).nearest(same.unseen, "copies")
    assert copies.min() >= 0 and copies.max() < SAME


def test_an_audit_that_cannot_tell_says_so(measured):
    blind = SimpleNamespace(**vars(measured))
    blind.unseen = measured.unseen.take(slice(None))
    blind.unseen.images = measured.training.images[:24].copy()  # "unseen" people who look like training people
    result, _ = audit(blind, as_samples(measured.unseen, brains(6, seed=3).images))
    assert result["audit_false_alarm"] == 1 and result["verdict"].startswith("cannot tell")


def test_windows_of_codes():
    random = np.random.default_rng(0)
    training = random.integers(0, 50, (6, 12, 14))
    query = random.integers(0, 50, (2, 12, 14))
    query[1, 2:, 3:13] = training[4, 2:, 3:13]  # ten by ten codes of one grid
    found = nearest_windows(query, training)
    assert found[0] < 0.2 and found[1] == 1
    assert nearest_windows(training[:1], training, lambda _: np.array([0]))[0] < 0.2
    assert nearest_windows(training[:1, :5, :5], training[:, :5, :5])[0] == 1  # smaller than a window


def test_windows_are_the_same_whatever_the_block_and_are_those_of_every_place(monkeypatch):
    random = np.random.default_rng(0)
    training, queries = random.integers(0, 3, (23, 12, 11)), random.integers(0, 3, (4, 12, 11))

    def own(i):
        return np.arange(5 * i, 5 * i + 5)

    def slow(i, window, left_out):
        agree = (training == queries[i]).astype(int)
        agree[left_out] = 0
        places = np.ndindex(12 - window + 1, 11 - min(window, 11) + 1)
        return max(agree[:, y : y + window, x : x + window].sum(axis=(1, 2)).max() for y, x in places)

    for block in (4096, 4):
        monkeypatch.setattr(copies, "GRID_BLOCK", block)
        for window in (3, 10):
            found = nearest_windows(queries, training, own, window)
            assert found.tolist() == [slow(i, window, own(i)) / window**2 for i in range(4)]
        found = nearest_windows(queries, training, window=15)  # the whole grid
        assert found.tolist() == [(training == query).mean(axis=(1, 2)).max() for query in queries]


def test_people_of_a_null_are_drawn_whole():
    person = np.array(["a", "b", "a", "c", "b", "a"])
    draws = draw_people(person, 2, 0)
    assert len(draws) == DRAWS
    for rows in draws:
        counts = np.bincount(rows, minlength=6)
        assert sum(counts[np.flatnonzero(person == one)[0]] for one in "abc") == 2
        assert all(len(set(counts[person == one])) == 1 for one in "abc")
    assert len({tuple(rows) for rows in draws}) == 9
    assert not all(np.array_equal(a, b) for a, b in zip(draws, draw_people(person, 2, 1), strict=True))


# ---- usefulness -------------------------------------------------------------------------------


def labelled(people, seed, contrast):
    """Brains whose labels differ by brightness, or not."""
    images = brains(people, seed=seed, prefix=f"u{seed}-")
    images.images = np.clip(images.images * np.where(images.label == 1, 1, 1 - contrast)[:, None, None], 0, 255).astype(
        np.uint8
    )
    return images


@pytest.mark.parametrize("contrast", [0.5, 0.0])
def test_usefulness_is_assessed_only_where_real_labels_are_separable(contrast):
    training, unseen, samples = (labelled(16, seed, contrast) for seed in (1, 2, 3))
    yardstick = Yardstick(training)
    sets = SimpleNamespace(fitted=training, pool_originals=training, originals=unseen, all_samples=samples)
    result = measure_usefulness(sets, yardstick)
    if contrast:
        assert result["auc_real"]["value"] > 0.9 and result["auc_samples"]["value"] > 0.9
    else:
        assert result["auc_samples"] is None and "not separable" in result["auc_samples_why"]
