"""What a dry run says of the cost of each stage."""

from training.timing import cost_of_stage


def test_the_cost_of_a_stage_in_slices_epochs_and_minutes():
    said = cost_of_stage("vqvae", 6500, 8, 0.25, 980)
    assert said == "vqvae: 32.0 slices/s; 6500 steps see 52,000 slices, 53.1 epochs of 980, in about 27.1 minutes"


def test_few_epochs_of_many_slices_are_said_with_the_steps_that_would_be_more():
    first, second = cost_of_stage("prior", 3800, 8, 0.24, 18300).splitlines()
    assert "30,400 slices, 1.7 epochs of 18,300" in first
    assert second == "prior: that is few epochs; --prior-steps 22900 are 10, in about 91.6 minutes"
