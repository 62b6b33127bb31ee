"""Attacks: what tells people of training from others scores them, person by person, and nothing else does."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from metrics import membership
from metrics.codes import CodeBits, PositionalBaseline, measure_codes
from metrics.membership import by_person, judged, measure_membership, some_slices, target_of
from metrics.parts import Cache, load_parts
from report.membership import membership_verdict, strongest
from sampling.run import Run

GRID, NO_CACHE = (4, 3), SimpleNamespace(kept=lambda name, content, compute: compute())


class FakePrior:
    """Knows some grids by heart, under the conditions that they came with, and nothing of any other."""

    def __init__(self, known, condition_dropout=0.1, num_labels=2, num_positions=2):
        self.known, self.grid, self.uniforms_shape = known, known.shape[1:], known.shape[1:]
        self.settings = dict(condition_dropout=condition_dropout, num_labels=num_labels, num_positions=num_positions)
        self.batches = []

    def log_likelihood(self, codes, label, position, context=None):
        assert context is None  # attacks are on slices by themselves
        same = tf.reduce_all(tf.convert_to_tensor(codes)[:, None] == self.known[None], axis=(2, 3))
        by_heart = tf.reduce_any(same, axis=1) & (label > 0) & (position > 0)
        return tf.where(by_heart[:, None, None], 0.0, tf.fill(tf.shape(codes), -3.0))

    def sample(self, uniforms, label, position, temperature, known, mask, **options):
        self.batches.append(len(uniforms))
        codes = np.where(mask, known, 10**6 + (1000 * uniforms).astype(int))  # of no grid
        for codes_i, mask_i in zip(codes, mask, strict=True):
            for grid in self.known:
                if np.array_equal(codes_i[mask_i], grid[mask_i]):
                    codes_i[:] = grid
        return codes, None


def slices_of(name, people, slices, random, prior_bits=5.0, error=4):
    """A Part and the CodeBits of a split: people of some slices each, no code of which any other slice has."""
    n = people * slices
    subject = np.repeat([f"{name} {i}" for i in range(people)], slices)
    position = np.tile(np.arange(slices, dtype=np.int32) + 1, people)
    brain = np.ones((n, *GRID), bool)
    brain[:, :, 0] = False
    part = SimpleNamespace(
        codes=random.permutation(n * 12).reshape(n, *GRID).astype(np.int32) + (1000 if name == "train" else 0),
        columns={"label": np.ones(n, np.int32), "position": position},
        error=np.full(n, error, np.float32),
        fingerprint=name,
    )
    bits = CodeBits(np.full((n, *GRID), prior_bits), np.full((n, *GRID), 6.0), None, brain, subject, np.ones(n, bool))
    return part, bits


def play(prior=None, samples=None, people=6, others=5, **of_training):
    """measure_membership of a fake run: by default of a prior that knows the people of training by heart."""
    random = np.random.default_rng(0)
    parts, bits = {}, {}
    parts["train"], bits["train"] = slices_of("train", people, 3, random, **of_training)
    parts["test"], bits["test"] = slices_of("test", others, 3, random)
    prior = prior or FakePrior(parts["train"].codes)
    if prior.known is not None:  # its bits are those that it gives
        for name in bits:
            codes, columns = parts[name].codes, parts[name].columns
            bits[name].prior = -prior.log_likelihood(codes, columns["label"], columns["position"]).numpy() / np.log(2)
    run = SimpleNamespace(prior=prior)
    samples = parts["train"].codes if samples is None else samples
    return measure_membership(run, NO_CACHE, parts, bits, "test", samples, 0)


ATTACKS = tuple(membership.MEANING)


def test_people_whom_the_models_and_the_samples_know_by_heart_are_told_by_every_attack():
    result = play(error=1)
    assert tuple(result) == ATTACKS
    for name, attack in result.items():
        assert [attack[key] for key in ("auc", "told", "people", "unseen")] == [1, 1, 6, 5], name
        assert attack["false_alarm"] == pytest.approx(1 / 6) and attack["low"] > 0.5 and attack["high"] == 1
        assert attack["of"] == ("samples" if name == "nearest_sample" else "weights") and attack["meaning"]


def test_people_whom_nothing_tells_have_an_auc_of_a_half_and_none_is_told():
    strangers = np.full((2, *GRID), -1, np.int32)
    for name, attack in play(FakePrior(strangers), strangers).items():
        assert attack["auc"] == 0.5 and attack["told"] == 0 and attack["p"] > 0.4, name


def test_samples_tell_what_the_weights_do_not_and_the_other_way_round():
    strangers = np.full((2, *GRID), -1, np.int32)
    weights, samples = play(samples=strangers), play(FakePrior(strangers))
    assert weights["nearest_sample"]["auc"] == 0.5 and weights["likelihood"]["auc"] == 1
    assert samples["nearest_sample"]["auc"] == 1 and samples["likelihood"]["auc"] == 0.5


# ---- by person ---------------------------------------------------------------------------------


def test_scores_are_means_over_the_slices_of_a_person_that_have_one():
    scores = by_person([1.0, 3.0, np.nan, 5.0, np.nan], ["a", "a", "a", "b", "c"])
    assert scores.to_dict() == {"a": 2.0, "b": 5.0}


def test_a_person_of_many_slices_counts_once():
    """One person of training has 30 slices that are known and three have one each that is not: 1 of 4 is told."""
    random = np.random.default_rng(0)
    train, train_bits = slices_of("train", 33, 1, random, prior_bits=1.0, error=0)
    test, test_bits = slices_of("test", 5, 1, random)
    train_bits.subject = np.array(["many"] * 30 + ["a", "b", "c"])
    train_bits.prior[30:], train.error[30:] = 9.0, 9
    strangers = np.full((1, *GRID), -1, np.int32)
    run = SimpleNamespace(prior=FakePrior(strangers))
    result = measure_membership(
        run, NO_CACHE, {"train": train, "test": test}, {"train": train_bits, "test": test_bits}, "test", strangers, 0
    )
    for name in ("likelihood", "least_likely_codes", "least_likely_codes_plain", "vqvae_error"):
        assert [result[name][key] for key in ("people", "auc", "told")] == [4, 0.25, 0.25], name
    assert all(result[name]["people"] == 4 for name in ATTACKS)


def test_slices_are_drawn_evenly_over_people_and_over_the_positions_of_each():
    part, bits = slices_of("train", 9, 7, np.random.default_rng(0))
    part.columns["position"] = part.columns["position"][::-1]
    target = target_of("train", part, bits)
    chosen = some_slices(target, 3, 3)
    assert bits.subject[chosen].tolist() == np.repeat(["train 0", "train 4", "train 8"], 3).tolist()
    assert part.columns["position"][chosen].tolist() == [1, 4, 7] * 3
    assert sorted(some_slices(target, 99, 99)) == list(range(63))


# ---- single attacks ----------------------------------------------------------------------------


def one_target(**bits):
    """A Target of two people with two slices each."""
    part, code_bits = slices_of("train", 2, 2, np.random.default_rng(0))
    vars(code_bits).update(bits)
    return target_of("train", part, code_bits)


def test_the_least_likely_fifth_of_the_brain_is_set_against_the_baseline_in_the_same_cells():
    prior = np.zeros((4, *GRID))
    prior[:, :, 0] = 50  # outside the brain
    prior[:, 1, 1], prior[:, 3, 2] = 10, 8  # two of eight, the least likely
    positional = np.full((4, *GRID), 100.0)
    positional[:, 1, 1], positional[:, 3, 2] = 13, 10
    scores = membership.least_likely_codes(one_target(prior=prior, positional=positional))
    assert scores.tolist() == [2.5] * 4  # (3 + 2) / 2


def test_a_slice_shares_with_the_most_similar_sample_what_agrees_in_the_brain():
    target = one_target()
    samples = np.full((3, *GRID), -1, np.int32)
    samples[:, :, 0] = target.codes[0][:, 0]  # outside the brain
    samples[1, :3, 1] = target.codes[0][:3, 1]
    samples[2, 0, 1:] = target.codes[0][0, 1:]
    assert membership.nearest_sample(target, samples).tolist() == [3 / 8, 0, 0, 0]


def complete_as(target, grids):
    """The scores of prefix_extraction where the prior completes the slices of a Target as ``grids``."""
    prior = SimpleNamespace(
        grid=GRID, uniforms_shape=GRID, sample=lambda *_, known, mask, **__: (np.resize(grids, known.shape), None)
    )
    return membership.prefix_extraction(target, SimpleNamespace(prior=prior), NO_CACHE, [target], 0)


def test_completions_score_their_own_codes_minus_those_of_others_at_the_position():
    target = one_target()
    others = target.codes[[2, 3, 0, 1]]  # the other person at the same position
    assert complete_as(target, target.codes).tolist() == [1] * 4
    assert complete_as(target, others).tolist() == [-1] * 4
    assert complete_as(target, target.codes[[3, 2, 1, 0]]).tolist() == [0] * 4  # the other, elsewhere
    target.columns["position"][:] = [1, 2, 3, 4]  # nobody else is there: others are then at any position
    assert complete_as(target, others).tolist() == [-0.5] * 4
    half = target.codes.copy()
    half[:, 2:, 1] = -1  # one of two columns of the brain
    half[:, :2], half[:, :, 0] = -1, -1  # what was given, and what is no brain
    assert complete_as(target, half).tolist() == [0.5] * 4


def test_completions_keep_the_first_half_and_are_drawn_in_blocks_of_one_size():
    part, bits = slices_of("train", 64, 3, np.random.default_rng(0))
    target = target_of("train", part, bits)
    prior = FakePrior(part.codes[:1])
    chosen = some_slices(target, 34, 2)
    codes = membership.complete(prior, target, chosen, 2, 0)
    assert prior.batches == [64, 64] and codes.shape == (68, *GRID)
    assert np.array_equal(codes[:, :2], target.codes[chosen][:, :2])
    assert (codes[0] == target.codes[0]).all() and (codes[1:, 2:] >= 10**6).all()


@pytest.mark.parametrize(
    "settings, why",
    [
        (dict(condition_dropout=0), "without dropping"),
        (dict(num_labels=1, num_positions=1), "one label and one position"),
        (dict(num_labels=1), None),
        (dict(num_positions=1), None),
    ],
)
def test_conditions_that_tell_nothing_make_no_attack(settings, why):
    strangers = np.full((1, *GRID), -1, np.int32)
    result = play(FakePrior(strangers, **settings))
    name = "conditional_minus_unconditional"
    assert (result[name] is None) == (why is not None)
    assert why is None or why in result[f"{name}_why"]
    assert all(result[other] for other in ATTACKS if other != name)


def test_attacks_on_the_brain_are_null_where_none_was_found():
    part, bits = slices_of("train", 3, 2, np.random.default_rng(0))
    bits.brain[:] = False
    run = SimpleNamespace(prior=FakePrior(part.codes))
    result = measure_membership(
        run, NO_CACHE, dict(train=part, test=part), dict(train=bits, test=bits), "test", part.codes, 0
    )
    for name in ("least_likely_codes", "least_likely_codes_plain", "prefix_extraction", "nearest_sample"):
        assert result[name] is None and result[f"{name}_why"] == "no brain was found"
    assert result["likelihood"]["auc"] == 0.5


# ---- what they tell ----------------------------------------------------------------------------


@pytest.mark.parametrize("unseen, above", [(4, 1), (98, 1), (99, 1), (198, 1), (199, 2), (250, 2), (299, 3)])
def test_of_people_like_the_unseen_no_more_are_told_than_the_false_alarm_says(unseen, above):
    """Each of n + 1 exchangeable people in turn stands for one of training."""
    everyone = np.random.default_rng(0).permutation(unseen + 1)
    told = [judged([one], everyone[everyone != one]) for one in everyone]
    share = np.mean([one["told"] for one in told])
    assert share == pytest.approx(above / (unseen + 1)) and share <= told[0]["false_alarm"] + 1e-12
    assert told[0]["false_alarm"] == max(0.01, 1 / (unseen + 1))


def test_who_is_level_with_the_highest_of_the_unseen_is_not_told():
    result = judged([5, 6, 7, 4], [1, 2, 5])
    assert judged([3, 4], [1, 2])["p"] == pytest.approx(1 / 6)  # one of the six orders
    assert result["told"] == 0.5 and result["auc"] == pytest.approx(10.5 / 12)


def attack(auc, p, of="weights", people=49, unseen=14, told=0.96):
    return dict(
        auc=auc, low=auc - 0.1, high=auc + 0.1, p=p, of=of, people=people, unseen=unseen, told=told,
        false_alarm=1 / (unseen + 1),
    )  # fmt: skip


def test_the_verdict_names_what_weights_and_samples_tell_apart():
    found = {"a": attack(0.6, 0.2), "b": attack(0.9, 1e-4), "c": None, "c_why": "…", "s": attack(0.52, 0.4, "samples")}
    assert strongest(found) == "b" and strongest(found, "samples") == "s"
    assert membership_verdict(found) == (
        "weights: 96 % of training people are told at 1 false alarm in 15 (b, AUC 0.90 [0.80, 1.00]); "
        "samples: training people are not told (s, AUC 0.52 [0.42, 0.62])"
    )
    assert strongest({"c": None, "c_why": "…"}) is None
    assert membership_verdict({"c": None}) == "weights: not assessed; samples: not assessed"


def test_the_best_of_several_attacks_is_no_lucky_one():
    lucky = {"a": attack(0.65, 0.02), "b": attack(0.55, 0.3), "c": attack(0.5, 0.5)}
    assert "weights: training people are not told (a" in membership_verdict(lucky)
    assert "weights: 96 %" in membership_verdict({"a": lucky["a"]})
    sure = lucky | {"c": attack(0.6, 1e-3)}  # of more people
    assert "(c, AUC 0.60" in membership_verdict(sure)


def test_people_too_few_to_tell_are_said_to_be():
    few = {"a": attack(1.0, 1 / 28, people=6, unseen=2), "b": attack(0.5, 0.5, people=6, unseen=2)}
    assert "weights: cannot tell from 6 training people and 2 others (a, AUC 1.00" in membership_verdict(few)


# ---- a real run --------------------------------------------------------------------------------


def test_all_attacks_are_made_on_a_run_and_cost_the_models_once(finished_run, tmp_path, monkeypatch):
    run = Run(finished_run)
    cache = Cache(run, 0, tmp_path)
    parts = load_parts(run, cache, "test")
    baseline = PositionalBaseline(parts["train"], None, run.config["num_codes"])
    bits, *_ = measure_codes(run, cache, parts, "test", baseline)
    result = measure_membership(run, cache, parts, bits, "test", parts["train"].codes, 0)
    assert tuple(result) == ATTACKS
    for name, one in result.items():
        numbers = [one[key] for key in ("auc", "low", "high", "p", "told", "false_alarm")]
        assert np.isfinite(numbers).all() and min(numbers) >= 0 and max(numbers) <= 1, name
        assert one["unseen"] == 2 and one["people"] == parts["train"].slices["subject"].nunique()
    assert result["nearest_sample"]["auc"] == 1  # the "samples" are the training slices
    for costly in ("prior_bits", "complete"):
        monkeypatch.setattr(membership, costly, None)  # what they gave is kept
    assert measure_membership(run, cache, parts, bits, "test", parts["train"].codes, 0) == result
