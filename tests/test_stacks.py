"""Stacks of slices: how well those of one person agree, people against people, and copies of a whole person."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import evaluate
import metrics.whole_people
from metrics.copies import CopySearch
from metrics.images import image_metrics
from metrics.measured import ImageSet
from metrics.nulls import people_of_labels
from metrics.parts import Cache, load_parts
from metrics.stack_copies import measure_stack_copies, share_of_one
from metrics.stacks import (
    Stacks,
    changes,
    coronal_roughness,
    ends,
    independent_stacks,
    measure_stack,
    measure_stacks,
    mutual_information,
    numbers_of,
    outline_jags,
    overlaps,
    similarities,
    stacks_of,
)
from metrics.usefulness import by_source
from metrics.whole_people import MeasuredStacks, judge_people, known_features, measure_people, stack_statistics, too_few
from report.numbers import TOLD_APART
from sampling.run import Run
from slices.frame import brain_mask

SLICES = 6


def head(person, slices=SLICES, size=(40, 36)):
    """(S, H, W) uint8: a textured ellipsoid with a dark middle, of a size and a place that are the person's own."""
    random = np.random.default_rng(person)
    rows, columns = np.mgrid[: size[0], : size[1]]
    middle, tilt = size / np.array(2) + random.uniform(-2, 2, 2), random.uniform(-0.3, 0.3)
    length, hole = 14 + random.uniform(-3, 3), 0.25 + random.uniform(-0.08, 0.08)
    grey, waves = 150 + random.uniform(-20, 20), random.uniform(0.3, 0.7, 2)
    stack = []
    for height in range(slices):
        down, across = rows - middle[0] - tilt * height, columns - middle[1] + tilt * height
        radius = np.hypot(down / (length + 0.4 * height), across / (length - 2 + 0.3 * height))
        pattern = 30 * np.sin(waves[0] * down + 0.2 * height) * np.sin(waves[1] * across)
        image = np.where(radius < hole, 30, grey + pattern) * (radius < 1)
        stack.append(image)
    return np.clip(stack, 0, 255).astype(np.uint8)


def heads(count, first=0):
    person = np.array([f"p{first + i:03d}" for i in range(count)])
    return Stacks(np.stack([head(first + i) for i in range(count)]), 1 + np.arange(count) % 2, person)


# ---- stacks -----------------------------------------------------------------------------------


def test_people_with_a_slice_at_every_position_are_stacks_in_the_order_of_the_head():
    person = np.array(["b", "a", "a", "b", "c", "a", "a"])
    position = np.array([1, 1, 0, 0, 1, 1, 0])  # a has two scans, c lacks a slice
    images = ImageSet(np.arange(7, dtype=np.uint8)[:, None, None], np.array([2, 1, 1, 2, 1, 1, 1]), position, person)
    stacks = stacks_of(images, 2)
    assert stacks.person.tolist() == ["a", "b"] and stacks.label.tolist() == [1, 2]
    assert stacks.images[:, :, 0, 0].tolist() == [[2, 1], [3, 0]]
    assert len(stacks_of(images, 3).person) == 0


def test_independent_slices_are_of_others_of_the_label_and_all_are_used():
    stacks = heads(9)
    stacks.images[:] = np.arange(9)[:, None, None, None]  # each pixel tells whose slice it is
    whose = independent_stacks(stacks, seed=1).images[:, :, 0, 0]  # (P, S)
    assert (whose[:, 1:] != whose[:, :-1]).all() and (np.sort(whose, axis=0) == np.arange(9)[:, None]).all()
    assert (stacks.label[whose] == stacks.label[:, None]).all()
    assert not np.array_equal(independent_stacks(stacks, seed=2).images[:, :, 0, 0], whose)
    assert people_of_labels(stacks.person, stacks.label)[2].tolist() == ["p001", "p003", "p005", "p007"]


# ---- what is measured on a stack ----------------------------------------------------------------


def test_likeness_is_ssim_in_the_brain():
    stack = head(0)[:2]
    masks = np.stack([brain_mask(stack[0])] * 2)
    found = similarities(stack.astype(np.float32) / 255, masks)
    assert found == {"ssim_1": pytest.approx(image_metrics(*stack)["ssim_brain"], abs=1e-4)}
    assert similarities(stack[[0, 0]].astype(np.float32) / 255, masks)["ssim_1"] == pytest.approx(1)


def test_mutual_information_is_what_one_image_tells_of_the_other():
    levels = np.arange(16).reshape(4, 4) % 4
    mask = np.ones((4, 4), bool)
    assert mutual_information(levels, levels, mask) == pytest.approx(2)  # four levels, alike often
    assert mutual_information(levels, 3 - levels, mask) == pytest.approx(2)  # whatever they are called
    assert mutual_information(levels, levels.T, mask) == pytest.approx(0, abs=1e-12)
    assert mutual_information(levels, levels.T, mask & (levels == 1)) == pytest.approx(0, abs=1e-12)


def test_changes_are_those_of_areas_some_slices_apart():
    assert changes(np.array([0.0, 1, 3])) == {"ventricle_change_1": 1.5, "ventricle_change_2": 3.0}


def test_outlines_overlap_by_dice():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2], masks[1, :2], masks[2, 1:3] = True, True, True
    assert overlaps(masks) == {"overlap_1": 0.75, "overlap_2": 0.5}


def test_what_changes_evenly_is_smooth_and_what_jumps_is_rough():
    even = np.linspace(0.2, 0.8, 5)[:, None, None] * np.ones((5, 4, 4))
    masks = np.ones(even.shape, bool)
    assert coronal_roughness(even, masks) == pytest.approx(0, abs=1e-9)
    noise = np.random.default_rng(0).standard_normal((40, 50, 50))
    assert coronal_roughness(noise, np.ones(noise.shape, bool)) == pytest.approx(np.sqrt(3), abs=0.02)
    assert np.isnan(coronal_roughness(even[:2], masks[:2]))


def test_jags_are_pixels_from_half_way_between_the_neighbours():
    masks = np.zeros((4, 6, 12), bool)
    for place, left in enumerate((2, 3, 4, 5)):
        masks[place, 1:5, left : left + 4] = True
    assert outline_jags(masks) == 0  # a slanted outline is smooth
    masks[2] = np.roll(masks[2], 2, axis=1)  # 2 aside at both sides; its neighbour is then 1 off
    assert outline_jags(masks) == pytest.approx((1 + 2) / 2)
    assert np.isnan(outline_jags(masks[:2]))


def test_ends_are_the_lowest_and_highest_five_slices_or_half_of_few():
    assert ends(np.arange(20.0)) == {"low": 2.0, "high": 17.0} and ends(np.array([1.0, 2, 9])) == {"low": 1, "high": 9}


def test_every_number_has_a_name_and_a_stack_without_a_brain_has_none():
    found, nothing = measure_stack(head(0)), measure_stack(np.zeros((SLICES, 30, 30), np.uint8))
    assert list(found) == list(nothing) == numbers_of(SLICES) and np.isfinite(list(found.values())).all()
    assert np.isnan(list(nothing.values())).all()
    assert found["brain_volume"] == pytest.approx((head(0) > 12).mean(), abs=0.01)
    assert {"ssim_5", "information_5"} <= set(found) and "ssim_10" not in found


def test_independent_slices_agree_less_on_everything():
    stacks = heads(8)
    real, mixed = (measure_stacks(one).mean() for one in (stacks, independent_stacks(stacks)))
    for gap in (1, 2):
        assert all(real[f"{name}_{gap}"] > mixed[f"{name}_{gap}"] for name in ("ssim", "information", "overlap"))
    assert real["coronal_roughness"] < mixed["coronal_roughness"] and real["outline_jags"] < mixed["outline_jags"]


# ---- people against people ----------------------------------------------------------------------


def measured(stacks):
    return MeasuredStacks(measure_stacks(stacks), stacks.label, stacks.position, stacks.person)


@pytest.fixture(scope="module")
def population():
    return heads(32)


def test_real_people_pass_and_independent_slices_fail(population):
    numbers, mixed = measured(population), measured(independent_stacks(population)).take(np.arange(8))
    people, reference = numbers.take(np.arange(8, 16)), numbers.take(np.arange(8))
    result = judge_people(people, reference, numbers, {"independent": mixed}, seed=0)
    json.dumps(result, allow_nan=False)
    assert result["told_apart"] == []
    assert {"ssim_1_effect", "overlap_1_effect", "two_sample_auc"} <= set(result["told_apart_independent"])
    assert result["ssim_1_effect_independent"] < result["ssim_1_effect_null"]["low"]
    assert result["means"]["people"]["ssim_1"] == pytest.approx(people.numbers["ssim_1"].mean())
    assert {"people", "reference", "independent"} == set(result["means"]) and result["tests"] > 20


def test_statistics_by_hand():
    def people(volume, low, high):
        names = [f"{end}_{name}" for end in ("low", "high") for name in ("grey", "detail", "brain", "ventricles")]
        table = pd.DataFrame({"brain_volume": volume, "ventricle_volume": 1.0, **dict.fromkeys(names, 0.0)})
        table["low_grey"], table["high_grey"] = low, high
        place = np.zeros(len(table), int)
        return MeasuredStacks(table, place, place, np.arange(len(table)).astype(str))

    found = stack_statistics(people([3.0, 5, 7], [1, 2, 3], [2, 4, 6]), people([0.0, 1, 2], [0, 0, 0], [0, 1, 2]))
    assert found["brain_volume_effect"] == pytest.approx(4) and found["brain_volume_spread"] == pytest.approx(
        np.log10(2)
    )
    assert found["drift_grey_effect"] == pytest.approx(2 - 1) and found["grey_link"] == pytest.approx(1)
    assert found["ventricle_volume_spread"] is None and found["drift_brain_effect"] is None
    assert found["detail_link"] is None and "low_grey_effect" not in found


def test_too_few_people_have_no_null_and_it_is_said_why(population):
    few = measured(population.take(np.arange(6)))
    assert "too few people: 2 in the split" in too_few(few.take(np.arange(2)), few)
    assert "too few people: 3 of a label" in too_few(few.take(np.arange(4)), few)
    result = judge_people(few.take(np.arange(2, 4)), few.take(np.arange(2)), few, {}, seed=0)
    assert result["ssim_1_effect_null"] is None and "too few" in result["ssim_1_effect_null_why"]
    assert result["ssim_1_effect_verdict"] != TOLD_APART and result["tests"] == 0


def test_people_teach_what_their_labels_differ_in(population):
    numbers = measured(population)
    numbers.numbers["ventricle_volume"] += np.where(numbers.label == 2, 0.5, 0)
    numbers.numbers.iloc[0, 0] = np.nan
    real, drawn, unseen = (numbers.take(np.arange(first, 32, 3)) for first in range(3))
    found = by_source(real, drawn, unseen, known_features)
    assert found["auc_samples"]["value"] > 0.8 and found["auc_real"]["value"] > 0.8
    swapped = MeasuredStacks(drawn.numbers, 3 - drawn.label, drawn.position, drawn.person)
    assert by_source(real, swapped, unseen, known_features)["auc_samples"]["value"] < 0.2


# ---- copies of a whole person -------------------------------------------------------------------


def test_the_share_of_the_commonest_person():
    assert share_of_one(np.array(["a", "b", "a", "c"])) == 0.5 and share_of_one(np.array(["a"] * 3)) == 1


def test_a_copy_of_a_training_person_is_found_and_others_are_not(population):
    training, unseen = population.take(np.arange(12)), population.take(np.arange(12, 18))
    flat = training.images.reshape(-1, *training.images.shape[2:])
    none = np.zeros(len(flat), int)
    search = CopySearch(ImageSet(flat, none, none, np.repeat(training.person, SLICES)))
    copies = Stacks(training.images[:4], training.label[:4], np.array([f"sampled {i}" for i in range(4)]))
    others = population.take(np.arange(18, 24))
    found, clean = (measure_stack_copies(search, stacks, unseen, training, 0.01, seed=0) for stacks in (copies, others))
    assert found["one_person_share"] == 1 and found["of_one_person_throughout"] == 4
    assert found["flagged"] and found["copied_people"] == 4 and found["copied_slices"] == 1
    assert not clean["copied_people"] and clean["copied_slices"] == found["copied_slices_unseen"] == 0
    without = measure_stack_copies(search, others, unseen, training, None, seed=0)
    assert "copied_people" not in without and without["one_person_share"] == clean["one_person_share"]


# ---- of a run ---------------------------------------------------------------------------------


def test_the_section_of_a_run(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.whole_people, "DRAWN", 3)
    run = Run(finished_run)
    cache = Cache(run, 0, tmp_path)
    parts = load_parts(run, cache, "test")
    result, why = measure_people(run, cache, parts, "test", 0.1, 0)
    assert why is None and (result["people"], result["slices"]) == (2, 4)
    sections = {"against_real", "against_reconstructions", "usefulness", "bits_per_code", "copies"}
    assert set(result) == {"people", "slices"} | sections
    assert set(result["bits_per_code"]) == {"told", "alone", "shuffled", "told_over_alone"}
    assert result["usefulness"]["auc_samples"] is None  # one unseen person of each label
    assert "too few people" in result["against_real"]["ssim_1_effect_null_why"]
    assert result["copies"]["people"] == 2 and 0.25 <= result["copies"]["one_person_share"] <= 1
    json.dumps(result, allow_nan=False)
    section = {"memorisation": {"threshold": 0.1}}
    evaluate.measure_stacks(run, cache, parts, "test", 0, section)
    assert section["stacks"] == result
    evaluate.measure_stacks(SimpleNamespace(num_positions=5), cache, parts, "test", 0, section)
    assert section["stacks"] is None and "a slice at every position" in section["stacks_why"]


def test_people_are_set_against_slices_as_they_are_shown_and_against_reconstructions_as_they_are_decoded(
    finished_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(metrics.whole_people, "DRAWN", 3)
    seen, measured = [], metrics.whole_people.measured

    def noted(stacks, what):
        seen.extend([stacks.images] if what == "sampled people" else [])
        return measured(stacks, what)

    monkeypatch.setattr(metrics.whole_people, "measured", noted)
    run, cache = Run(finished_run), Cache(Run(finished_run), 0, tmp_path)
    measure_people(run, cache, load_parts(run, cache, "test"), "test", 0.1, 0)
    sharp, plain = seen  # three people, of whom one more teaches, and the two that are compared
    assert len(sharp) == 3 and len(plain) == 2 and not np.array_equal(sharp[:2], plain)
    assert np.array_equal(sharp[:2], [run.joined(run.sharpened(stack)) for stack in plain])


def test_the_people_of_an_evaluation_are_those_that_are_drawn_of_the_labels(finished_run, tmp_path):
    run = Run(finished_run)
    stacks = metrics.whole_people.drawn_stacks(run, Cache(run, 0, tmp_path), np.array([2, 2, 2]), seed=3)
    people = run.sample_people(3, label="NC", seed=3)
    assert np.array_equal(
        stacks.images, run.decode_crops(people.codes.reshape(-1, *run.code_grid)).reshape(stacks.images.shape)
    )
    assert stacks.label.tolist() == [2, 2, 2] and len(set(stacks.person)) == 3
