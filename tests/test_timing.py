"""What is chosen by timing, and what a dry run says of the cost of each stage."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from slices.frame import Box
from training import timing
from training.optimisation import build_prior
from training.options import preset_values
from training.timing import choose_convolution, cost_of_stage, time_in_turns

SMALL = preset_values("smoke") | {
    "code_grid": [4, 6],
    "labels": ["AD"],
    "num_positions": 2,
    "batch_size": 2,
    "prior_vertical_width": 8,
    "precision_resolved": "float32",
    "prior_convolution": "auto",
}


class WithGpu:
    """TensorFlow, with a GPU on its list."""

    config = SimpleNamespace(list_physical_devices=lambda kind: ["GPU:0"])

    def __getattr__(self, name):
        return getattr(tf, name)


@pytest.mark.parametrize(
    ("shifted", "chosen"), [(1.0, "shifted"), (2.9, "shifted"), (3.5, "dilated"), (9.0, "dilated")]
)
def test_the_prior_convolves_by_shifts_only_where_that_is_clearly_faster(shifted, chosen, monkeypatch, capsys):
    steps = []
    monkeypatch.setattr(timing, "time_in_turns", lambda timed, batch: steps.extend(timed) or [4.0, shifted])
    assert choose_convolution(WithGpu(), SMALL, Box(0, 0, 16, 24)) == chosen
    assert len(steps) == 2 and capsys.readouterr().out.startswith(f"convolutions of the prior: {chosen} (shifted is")


def test_it_is_not_timed_without_a_gpu_or_where_it_is_told(monkeypatch):
    monkeypatch.setattr(timing, "time_in_turns", None)
    without = SimpleNamespace(config=SimpleNamespace(list_physical_devices=lambda kind: []))
    assert choose_convolution(without, SMALL, None) == "dilated"
    for told in ("dilated", "shifted"):
        assert choose_convolution(WithGpu(), SMALL | {"prior_convolution": told}, None) == told


@pytest.mark.parametrize(
    ("recorded", "built"), [({}, "dilated"), ({"prior_convolution_resolved": "shifted"}, "shifted")]
)
def test_the_prior_is_built_as_the_config_records_and_older_ones_record_nothing(recorded, built):
    assert {layer.convolution for layer in build_prior(SMALL | recorded, "float32").levels()[-1].stack} == {built}


def test_both_ways_are_timed_in_turns_and_the_first_turn_does_not_count(monkeypatch):
    batch, order, seconds = object(), [], iter([9, 9, 2, 1, 3, 4, 5, 6])
    monkeypatch.setattr(timing, "time_steps", lambda step, count: step() or next(seconds))

    def step(name):
        return lambda given: order.append((name, given is batch)) or {"loss": tf.zeros(())}

    assert time_in_turns([step("a"), step("b")], batch) == [2, 1]
    assert order == [("a", True), ("b", True)] * 4


def test_the_cost_of_a_stage_in_slices_epochs_and_minutes():
    said = cost_of_stage("vqvae", 6500, 8, 0.25, 980)
    assert said == "vqvae: 32.0 slices/s; 6500 steps see 52,000 slices, 53.1 epochs of 980, in about 27.1 minutes"


def test_few_epochs_of_many_slices_are_said_with_the_steps_that_would_be_more():
    first, second = cost_of_stage("prior", 3800, 8, 0.24, 18300).splitlines()
    assert "30,400 slices, 1.7 epochs of 18,300" in first
    assert second == "prior: that is few epochs; --prior-steps 22900 are 10, in about 91.6 minutes"
    assert "few epochs" not in cost_of_stage("refiner", 1500, 8, 0.4, 18300)
