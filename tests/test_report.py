"""What is shown of an evaluation, and what is not shown to whom."""

from types import SimpleNamespace

import numpy as np
import pytest
from test_sets import brains

from metrics.samples import spectra_of
from report.numbers import set_against
from report.page import write_report


def test_shareable_report_has_no_participant_and_is_refused_with_copies(tmp_path):
    metrics_of = {
        "run": "x",
        "split": "validation",
        "people": 9,
        "slices": 9,
        "date": "today",
        "command": "c",
        "seed": 0,
        "commit": None,
        "notes": [],
        "samples": {"anatomy": {}},
        "memorisation": {"verdict": "copies found"},
    }
    sets = SimpleNamespace(
        originals=brains(3),
        reference=brains(3),
        samples=[brains(3)],
        all_samples=brains(3),
        search=brains(3),
        labels=["AD", "NC"],
    )
    pictures = {"sets": sets, "neighbours": [(0, 1, 0.5)], "spectra": spectra_of(sets)}
    (tmp_path / "report_shareable.html").write_text("of an earlier evaluation")
    assert "share nothing" in write_report(tmp_path, {}, metrics_of, pictures, shareable=True)
    assert (tmp_path / "report.html").exists() and not (tmp_path / "report_shareable.html").exists()
    metrics_of["memorisation"]["verdict"] = "no copies found by a search"
    assert write_report(tmp_path, {}, metrics_of, pictures, shareable=True) is None
    page = (tmp_path / "report_shareable.html").read_text()
    assert page.count("<img") == 3 and "training slice" not in page.split("<h2>All numbers")[0].split("<h2>Pictures")[1]
    assert (tmp_path / "report.html").read_text().count("<img") == 4


def test_spectra_leave_out_reconstructions_where_there_are_none():
    real, samples = brains(3), brains(3, seed=1)
    sets = SimpleNamespace(originals=real, reference=real, samples=[samples])
    spectra = spectra_of(sets)
    assert list(spectra) == ["slices", "samples"]
    frequencies, power = spectra["slices"]
    assert len(frequencies) == len(power) == 20 and 0 < frequencies[0] < frequencies[-1] < 0.5 and np.all(power > 0)
    sets.reference = samples
    assert list(spectra_of(sets)) == ["slices", "reconstructions", "samples"]


@pytest.mark.parametrize(
    ("number", "other", "words"),
    [
        (3, 4, "25.0 % below it"),
        (0, 0, "both are 0"),
        (5, 4, "25.0 % above it: worse than counting codes"),
        (4.2, 0.1, "more than twice it: worse than counting codes"),
        (1, 0, "more than twice it: worse than counting codes"),
    ],
)
def test_bits_are_set_against_counting_codes_in_words(number, other, words):
    assert set_against(number, other) == words
