"""Which images of a folder are measured: whole people, and every label."""

import numpy as np
import pytest
from test_sets import brains

from metrics import folders
from metrics.measured import ImageSet


def people_of(counts, labels):
    """An ImageSet of black slices: so many of each person, and the label of each person."""
    person = np.repeat([f"p{i:02d}" for i in range(len(counts))], counts)
    label = np.repeat(labels, counts)
    return ImageSet(np.zeros((len(person), 4, 4), np.uint8), label, np.zeros(len(person), int), person)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_as_many_images_of_each_label_are_searched_as_there_are(seed):
    label = np.repeat([1, 2, 3], [900, 90, 10])  # sorted, as files are
    rows = folders.even_draw(label, 100, seed)
    assert np.bincount(label[rows]).tolist() == [0, 45, 45, 10]
    assert len(set(rows)) == 100 and (np.diff(rows) > 0).all()
    assert np.array_equal(rows, folders.even_draw(label, 100, seed))
    assert rows[:45].max() > 500  # from all over the files, not from their start


def test_a_draw_of_all_images_is_all_of_them_and_seeds_differ():
    label = np.repeat([1, 2], [7, 3])
    assert folders.even_draw(label, 50, 0).tolist() == list(range(10))
    assert folders.even_draw(label, 4, 0).tolist() != folders.even_draw(label, 4, 1).tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_reference_is_whole_people_of_every_label_in_proportion(seed):
    images = people_of([5] * 40, [1] * 30 + [2] * 10)
    kept = folders.people_that_fit(images, 63, seed)
    people = set(images.person[kept])
    assert kept.sum() == 60 and len(people) == 12  # a thirteenth would not be whole
    assert np.bincount(images.label[kept]).tolist() == [0, 45, 15]
    assert np.array_equal(kept, folders.people_that_fit(images, 63, seed))
    assert people != {f"p{i:02d}" for i in range(12)}


def test_it_is_noted_how_many_real_people_so_few_images_leave():
    everyone, notes = np.repeat(["a", "b", "c"], 4), []
    folders.tell_who_is_left_out(everyone, everyone, 12, notes)
    folders.tell_who_is_left_out(everyone, everyone[:8], 9, notes)
    folders.tell_who_is_left_out(everyone, everyone[:8], 1500, notes)
    assert notes == [
        "2 of 3 real people are compared: 9 images stand for no more",
        "2 of 3 real people are compared: 1000 slices are enough",
    ]


def test_who_does_not_fit_is_passed_over_and_two_people_are_the_least():
    images = people_of([9, 9, 2], [1, 1, 1])
    assert folders.people_that_fit(images, 20, 0).all()
    assert len(set(images.person[folders.people_that_fit(images, 3, 0)])) == 2
    for seed in range(6):
        kept = folders.people_that_fit(images, 18, seed)
        assert kept.sum() in (11, 18)


def folders_of(real, generated):
    """What ``folder_sets`` takes, of two ImageSets."""
    import pandas as pd

    def loaded(images):
        slices = pd.DataFrame(
            {"label": [f"L{label}" for label in images.label], "position": images.position, "subject": images.person}
        )
        box = np.tile([0, 0, *images.images.shape[1:]], (len(images.images), 1))
        return {"folder": "x", "slices": slices, "images": images.images[..., None], "brain_boxes": box}

    return {"real": loaded(real), "generated": loaded(generated)}


def test_the_sets_of_a_folder_have_whole_people_and_an_even_draw():
    generated = brains(9, seed=3, prefix="g")
    generated = generated.take(np.argsort(generated.label, kind="stable"))  # 20 of L1, then 16 of L2
    sets = folders.folder_sets(folders_of(brains(20, seed=1), generated), 0, 24, [])
    people, counts = np.unique(sets.reference.person, return_counts=True)
    assert len(people) == 9 and set(counts) == {4}  # 36 images stand for nine people of four slices
    assert len(sets.all_samples.images) == 36  # never fewer than the reference has
    sets = folders.folder_sets(folders_of(brains(2, seed=1), generated), 0, 24, [])
    assert np.bincount(sets.all_samples.label).tolist() == [0, 12, 12]
