"""The audit: planted copies are found, and nothing else; and whether samples are of use."""

from types import SimpleNamespace

import numpy as np
import pytest
from test_sets import brains, measure_brains

from metrics.copies import CopySearch, nearest_windows, shift_and_gain
from metrics.memorisation import SAME, measure_memorisation, share_beyond
from metrics.sets import Yardstick, as_samples
from metrics.usefulness import measure_usefulness


@pytest.fixture(scope="module")
def measured():
    return measure_brains()


def test_planted_copies_are_found_whatever_their_shift_mirror_and_gain(measured):
    search, random = CopySearch(measured.training), np.random.default_rng(0)
    rows = random.integers(0, 48, 20)
    copies = shift_and_gain(measured.training.images[rows][..., ::-1], random)
    distance, found = search.nearest(as_samples(measured.training.take(rows), copies), "copies")
    assert np.array_equal(found, rows)
    unseen, _ = search.nearest(measured.reference, "unseen")
    assert distance.max() < unseen.min()


def audit(measured, samples, codes=None):
    """measure_memorisation of samples, with planted copies as for folders."""
    random = np.random.default_rng(1)
    rows = random.integers(0, len(measured.training.images), 40)
    planted = measured.training.take(rows)
    planted.images, planted.person = shift_and_gain(planted.images, random), np.full(40, "planted")
    return measure_memorisation(
        SimpleNamespace(
            reference=measured.reference,
            pool=measured.pool,
            search=measured.training,
            codes=codes,
            planted=planted,
            all_samples=samples,
        ),
        0,
    )


def test_one_per_cent_of_copies_among_a_thousand_samples_is_found():
    training, sound = brains(60, seed=1), brains(250, seed=5, prefix="s")
    measured = SimpleNamespace(training=training, pool=training, reference=brains(30, seed=2, prefix="r"))
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
    same = SimpleNamespace(**vars(measured) | {"reference": as_samples(measured.training, measured.training.images)})
    result, nearest = audit(same, as_samples(measured.reference, measured.reference.images))
    assert result["audit_false_alarm"] == 1 and result["copies_fraction"] == 0 and result["copies_fraction_why"]
    assert result["nn_ratio"] is None and "look the same as one of training" in result["nn_ratio_why"]
    assert result["nn_ratio_null"] is None and result["nn_ratio_null_why"]
    copies, _ = CopySearch(measured.training).nearest(same.reference, "copies")
    assert copies.min() >= 0 and copies.max() < SAME


def test_an_audit_that_cannot_tell_says_so(measured):
    blind = SimpleNamespace(**vars(measured))
    blind.reference = measured.reference.take(slice(None))
    blind.reference.images = measured.training.images[:24].copy()  # "unseen" people who look like training people
    result, _ = audit(blind, as_samples(measured.others, measured.others.images))
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
    sets = SimpleNamespace(pool=training, pool_originals=training, originals=unseen, samples=[samples])
    result = measure_usefulness(sets, yardstick)
    if contrast:
        assert result["auc_real"]["value"] > 0.9 and result["auc_samples"]["value"] > 0.9
    else:
        assert result["auc_samples"] is None and "not separable" in result["auc_samples_why"]
