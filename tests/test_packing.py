"""A model's file: weights of 16 bits that Keras opens as before, and the same bytes for the same weights."""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from small_models import ids, randomise, small_prior, small_vqvae, some_codes

from training.folder import save_model
from training.packing import NO_DATE, pack, rounded


def arrays(path):
    """{name: array} of the weights in a .keras file, as they are stored."""
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return found


@pytest.mark.parametrize("make", [small_prior, lambda: randomise(small_vqvae())])
def test_what_is_loaded_is_rounded_to_float16_and_float32_again(tmp_path, make):
    model = make()
    save_model(model, tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for trained, weight in zip(model.get_weights(), loaded.get_weights(), strict=True):
        assert weight.dtype == np.float32 and np.array_equal(weight, trained.astype(np.float16).astype(np.float32))
    assert {array.dtype for array in arrays(tmp_path / "model.keras").values()} == {np.dtype(np.float16)}


def test_what_float16_cannot_hold_stays_as_it_is(tmp_path):
    vqvae = small_vqvae()
    vqvae.quantizer.counts.assign(np.full(7, 70000.1))
    save_model(vqvae, tmp_path / "vqvae.keras")
    assert np.array_equal(keras.saving.load_model(tmp_path / "vqvae.keras").quantizer.counts, vqvae.quantizer.counts)
    whole = np.array([3, 2**20])
    assert rounded(whole) is whole


def test_the_same_weights_make_the_same_bytes_at_any_time(tmp_path):
    for name in ("first", "second"):
        save_model(small_prior(name="prior"), tmp_path / f"{name}.keras")
    assert (tmp_path / "first.keras").read_bytes() == (tmp_path / "second.keras").read_bytes()
    with zipfile.ZipFile(tmp_path / "first.keras") as archive:
        assert {part.date_time for part in archive.infolist()} == {NO_DATE}
        assert json.loads(archive.read("metadata.json")) == {"keras_version": keras.__version__}


def test_a_file_of_before_opens_and_holds_float32(tmp_path):
    prior = small_prior()
    prior.save(tmp_path / "prior.keras")
    loaded = keras.saving.load_model(tmp_path / "prior.keras")
    assert np.array_equal(loaded(some_codes(2), ids(2), ids(2)), prior(some_codes(2), ids(2), ids(2)))


def test_to_pack_what_is_packed_changes_nothing(tmp_path):
    save_model(small_prior(), tmp_path / "prior.keras")
    before = (tmp_path / "prior.keras").read_bytes()
    pack(tmp_path / "prior.keras")
    assert (tmp_path / "prior.keras").read_bytes() == before
