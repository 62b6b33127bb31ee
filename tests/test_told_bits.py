"""Bits of people's codes, told and not told the slices below."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
from small_models import small_prior, some_codes

from metrics.people import value_of
from metrics.told_bits import codes_told, next_persons, told_bits


def slices_of_two():
    rows = [(person, person, i) for person in "ab" for i in range(3)]
    return pd.DataFrame(rows, columns=["scan", "subject", "position"])


def test_the_next_persons_slices_stand_at_the_same_positions():
    slices = slices_of_two()
    rows = np.array([[-1], [0], [1], [-1], [3], [4]])
    assert next_persons(rows, slices, slices["subject"].to_numpy())[:, 0].tolist() == [-1, 3, 4, -1, 0, 1]
    fewer = slices.drop(index=4).reset_index(drop=True)
    found = next_persons(np.array([[-1], [0], [1], [-1], [3]]), fewer, fewer["subject"].to_numpy())
    assert found[:, 0].tolist() == [-1, 3, -1, -1, 0]


def test_a_slice_that_is_not_there_has_no_codes_and_no_gap():
    codes, gaps = codes_told(some_codes(2), np.array([[-1], [0]]), np.array([[0], [1]]))
    assert (codes[0] == -1).all() and np.array_equal(codes[1, 0], some_codes(2)[0]) and gaps.tolist() == [[0], [1]]


def test_bits_are_those_of_the_prior_that_is_told():
    prior, slices = small_prior(num_contexts=1), slices_of_two()
    codes, columns = some_codes(6), {"label": np.ones(6, np.int32), "position": np.tile(np.int32([1, 2, 3]), 2)}
    part = SimpleNamespace(slices=slices, codes=codes, columns=columns, fingerprint="")
    cache = SimpleNamespace(kept=lambda name, content, compute: compute())
    found = told_bits(SimpleNamespace(prior=prior), cache, part, "test")
    told = codes_told(codes, np.array([[-1], [0], [1], [-1], [3], [4]]), np.array([[0], [1], [1]] * 2))
    for name, context in (("told", told), ("alone", None)):
        right = prior.bits_per_code(codes, columns["label"], columns["position"], context).numpy().mean()
        np.testing.assert_allclose(value_of(found[name]), right, rtol=1e-5)
    assert len({value_of(found[name]) for name in ("told", "alone", "shuffled")}) == 3
