"""People of whom some slices are given: what is kept, what is drawn, where given slices belong, and mistakes."""

import nibabel
import numpy as np
import pandas as pd
import pytest
from conftest import make_slices
from PIL import Image

import sampling.people_completion
import sampling.people_folder
from sampling.people import slices_told
from sampling.people_completion import choose, complete_stacks, draw_slices, read_given, stretches
from sampling.run import Run, prior_bits
from slices.index import find_slices
from utils import UserError

POSITIONS = 4


@pytest.fixture(scope="module")
def run(finished_run):
    return Run(finished_run)


@pytest.fixture
def known(run, slices_folder):
    """The lowest slice and the one at position 2 of a test person with the label AD."""
    return read_given(run, [slices_folder / "test" / "AD" / f"106_{number}.png" for number in (70, 72)])[0]


@pytest.fixture
def strangers(tmp_path):
    """A folder of slices of people whom the run does not know, four each, numbered from 70."""
    return make_slices(tmp_path / "strangers", people=10, splits=("train",) * 10) / "train" / "AD"


# ---- drawing ------------------------------------------------------------------------------------


def test_given_slices_stay_and_the_others_are_drawn(run, known):
    people = run.complete_person(known, 3, label="AD")
    assert people.images.shape == (3, POSITIONS, *run.frame) and people.codes.shape == (3, POSITIONS, *run.code_grid)
    codes = run.encode(np.stack(list(known.values())))
    for position, image, given in zip((0, 2), known.values(), codes, strict=True):
        assert (people.images[:, position] == image).all() and (people.codes[:, position] == given).all()
    for position in (1, 3):
        assert len(np.unique(people.codes[:, position], axis=0)) == 3
        assert np.array_equal(people.images[0, position], run.decode_person(people.codes[0], known)[position])
    assert list(people.table["person"]) == ["completed00000", "completed00001", "completed00002"]
    assert set(people.table["given"]) == {"0 2"} and set(people.table["label"]) == {"AD"}


def test_bits_are_those_of_every_slice_told_those_below(run, known):
    people = run.complete_person(known, 2, label="NC", candidates=3)
    for position in range(POSITIONS):
        ids = {"label": np.full(2, 2, np.int32), "position": np.full(2, position + 1)}
        context = slices_told(run.prior, list(people.codes[:, :position].swapaxes(0, 1)))
        bits = prior_bits(run.prior, people.codes[:, position], ids, context=context).sum(axis=(1, 2))
        assert np.allclose(-bits, people.bits[:, position], atol=1e-3)
    assert np.allclose(people.table["log_likelihood_bits"], people.bits.sum(axis=1), atol=1e-4)


def test_what_is_drawn_depends_on_the_slices_that_are_given(conditions_matter, run, known):
    told_more, other = known | {3: known[0][::-1]}, {0: known[2], 2: known[0]}
    drawn = [run.complete_person(one, 2, candidates=1).codes[:, 1] for one in (known, told_more, other)]
    assert np.array_equal(drawn[0], drawn[1])  # it is told those below, and chosen by the one above alone
    assert not np.array_equal(drawn[0], drawn[2])


def test_a_completion_is_the_same_among_any_number_and_seeds_and_candidates_give_others(run, known):
    many, few = run.complete_person(known, 5, seed=3), run.complete_person(known, 2, seed=3)
    assert np.array_equal(many.codes[:2], few.codes) and many.table[:2].equals(few.table)
    part = run.complete_person(known, 5, seed=3, shard=(2, 2))
    assert np.array_equal(part.codes, many.codes[2:]) and part.table["index"].tolist() == [2, 3, 4]
    for other in ({"seed": 4}, {"seed": 3, "temperature": 0.5}):
        assert not np.array_equal(run.complete_person(known, 2, **other).codes[:, 1], few.codes[:, 1])


def test_a_candidate_is_chosen_by_the_likelihood_of_the_given_slice_above_it(run, known, monkeypatch):
    """The likelihood of the slice at position 2 is 0 unless its slice below begins with the code 7."""
    grid, asked = run.code_grid, []

    def draw_slice(prior, below, labels, position, uniforms, known=None, mask=None):
        asked.append((position, known is not None, len(labels)))
        if known is None:
            return (uniforms[:, : grid[0]] * 32).astype(np.int32), np.full(len(labels), -np.log(2))
        return known.astype(np.int32), np.where(below[-1][:, 0, 0] == 7, 0.0, -np.inf) if below else np.zeros(32)

    monkeypatch.setattr(sampling.people_completion, "draw_slice", draw_slice)
    codes = {0: np.zeros(grid, np.int32), 2: np.ones(grid, np.int32)}
    drawn, bits = complete_stacks(run, codes, 1, range(4), 0, candidates=200, block=32)
    assert drawn.shape == (4, POSITIONS, *grid) and (drawn[:, 1, 0, 0] == 7).all()
    assert len({tuple(one.ravel()) for one in drawn[:, 1]}) == 4 and (drawn[:, [0, 2]] == [[[[0]], [[1]]]]).all()
    assert bits.tolist() == [[0, -1, 0, -1]] * 4
    assert asked == [(0, True, 32)] + [(1, False, 32)] * 25 + [(2, True, 32)] * 25 + [(3, False, 32)]


def test_candidates_are_chosen_in_proportion_to_their_weights():
    weights = np.log([[1.0, 2, 1]])
    assert [choose(weights, np.array([u])).item() for u in (0.0, 0.24, 0.26, 0.74, 0.76, 0.999)] == [0, 0, 1, 1, 2, 2]
    assert choose(weights.repeat(2, axis=0) - 5000, np.array([0.1, 0.9])).tolist() == [0, 2]


def test_missing_positions_are_grouped_by_the_given_one_above():
    assert stretches([2, 5, 6], 9) == [(range(2), 2), (range(3, 5), 5), (range(6, 6), 6), (range(7, 9), None)]
    assert stretches([0], 3) == [(range(0), 0), (range(1, 3), None)]
    assert stretches([2], 3) == [(range(2), 2)]


def test_more_slices_than_a_block_are_drawn_as_in_blocks(run):
    random = np.random.default_rng(0)
    uniforms = random.random((40, *run.prior.uniforms_shape), np.float32)
    below = [random.integers(0, 32, (40, *run.code_grid)).astype(np.int32)]
    codes, log_likelihood = draw_slices(run.prior, below, 1, 1, uniforms, 32)
    tail, tail_likelihood = draw_slices(run.prior, [below[0][32:]], 1, 1, uniforms[32:], 32)
    assert np.array_equal(codes[32:], tail) and np.array_equal(log_likelihood[32:], tail_likelihood)
    assert len(codes) == len(log_likelihood) == 40


# ---- where they are -----------------------------------------------------------------------------


def spots(run, *paths, **options):
    """The positions that given slices are found to be at."""
    return list(read_given(run, list(paths), **options)[0])


def test_slices_of_the_run_are_where_its_index_says(run, slices_folder, capsys):
    files = [slices_folder / "test" / "AD" / f"106_{number}.png" for number in (73, 71)]
    known, label = read_given(run, files)
    assert list(known) == [3, 1] and label == "AD"
    assert np.array_equal(known[3], run.load(files[0].parent, [files[0].name]).images[0, ..., 0])
    assert "2 slices given, at positions 1 3 of 0 to 3 (the run's slices.csv)" in capsys.readouterr().out
    assert read_given(run, files, label="NC")[1] == "NC"


def test_positions_that_are_given_count_and_go_with_the_files_in_their_order(run, strangers):
    files = [strangers / f"108_{number}.png" for number in (72, 70)]
    assert spots(run, *files, positions=[1, 3]) == [1, 3]
    known = read_given(run, files, positions=[1, 3])[0]
    assert np.array_equal(known[1], read_given(run, files[:1], positions=[0])[0][0])


def test_files_of_a_stack_that_is_all_there_are_at_their_ranks(run, strangers, capsys):
    assert spots(run, strangers / "108_73.png", strangers / "108_71.png") == [3, 1]
    assert "their rank in the whole stack" in capsys.readouterr().out


def test_a_scan_with_gaps_is_placed_by_numbers_that_reach_from_end_to_end(run, strangers, tmp_path):
    folder = tmp_path / "gaps"
    folder.mkdir()
    for number in (70, 71, 73):
        (strangers / f"108_{number}.png").rename(folder / f"108_{number}.png")
    known, label = read_given(run, [folder])
    assert list(known) == [0, 1, 3] and label == "none"
    assert spots(run, folder, positions=[0, 2, 3]) == [0, 2, 3]
    (folder / "108_73.png").unlink()
    with pytest.raises(UserError, match="70 to 71, do not reach from end to end in steps of 1, as"):
        read_given(run, [folder])


# ---- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("positions", "sentence"),
    [
        ([1, 1], "two slices are given for position 1"),
        ([1, 4], "the run has no position 4: it has 0 to 3"),
        ([0, 1, 2, 3], "a slice is given for each of the 4 positions"),
        ([0, 1, 2, 3, 3], "5 slices are given, and the run knows 4 positions"),
        ([], "no slice is given"),
    ],
)
def test_wrong_positions_are_one_sentence(run, known, positions, sentence):
    with pytest.raises(UserError, match=sentence):
        sampling.people_completion.check_positions(run, positions)
    if len(set(positions)) == len(positions):
        with pytest.raises(UserError, match=sentence):
            run.complete_person(dict.fromkeys(positions, known[0]))


def test_wrong_arguments_are_one_sentence(run, known, monkeypatch):
    with pytest.raises(UserError, match="candidates must be a whole number from 1 to 1000, not 0"):
        run.complete_person(known, candidates=0)
    with pytest.raises(UserError, match="num_people must be"):
        run.complete_person(known, 0)
    with pytest.raises(UserError, match="images must be uint8"):
        run.complete_person({1: known[0][:, :-1]})
    monkeypatch.setattr(sampling.people_completion, "is_told", lambda run: False)
    with pytest.raises(UserError, match="was not told other slices of a person: it cannot complete one"):
        run.complete_person(known)


def test_wrong_files_are_one_sentence(run, strangers, tmp_path):
    def refused(match, *paths, **options):
        with pytest.raises(UserError, match=match):
            read_given(run, list(paths), **options)

    first, second = strangers / "108_70.png", strangers / "108_71.png"
    refused("nowhere is neither a folder of slices nor a file", tmp_path / "nowhere")
    refused("is of 5 people or scans, such as those of 100_70.png and 102_70.png", strangers)
    refused("is of 2 people or scans", first, strangers / "106_71.png")
    refused("files of one person, in one folder: these lie in several", first, strangers.parent / "NC" / "101_70.png")
    refused("1 number for 2 slices: give one for each", first, second, positions=[0])
    refused("two slices are given for position 0", first, first)
    (tmp_path / "empty").mkdir()
    refused("there is no PNG or JPEG image under", tmp_path / "empty")
    (strangers / "notes.txt").write_text("no slice")
    refused("notes.txt is no PNG or JPEG slice", strangers / "notes.txt")
    second.write_text("no image")
    refused("1 of the 2 given slices cannot be used", first, second, positions=[0, 1])
    assert len(find_slices(strangers)) == 20


# ---- the command --------------------------------------------------------------------------------


def test_the_command_writes_what_the_call_gives(run_predict, run, slices_folder):
    folder = slices_folder / "test" / "AD"
    flags = ["--num-people", 2, "--seed", 5, "--candidates", 2]
    out = run_predict("people", "--complete", folder / "106_70.png", folder / "106_72.png", *flags)
    known, _ = read_given(run, [folder / f"106_{number}.png" for number in (70, 72)])
    people = run.complete_person(known, 2, label="AD", seed=5, candidates=2)
    for person, stack in zip(people.table["person"], people.images, strict=True):
        paths = sorted((out / person).glob(f"{person}_*.png"))
        assert np.array_equal(np.stack([np.asarray(Image.open(path)) for path in paths]), stack)
        volume = nibabel.load(out / person / f"{person}.nii.gz")
        assert volume.header["descrip"].item() == b"completed by a model: not all is of a scan"
        assert np.array_equal(np.asarray(volume.dataobj), stack[:, ::-1].transpose(2, 1, 0))
    assert pd.read_csv(out / "people.csv").astype(str).equals(people.table.astype(str))
    assert (out / "contact_sheet.png").is_file()


def test_the_sheet_says_which_slices_are_given(tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(sampling.people_folder, "image_sheet", lambda *sheet, **options: sheets.append(options))
    montages = np.zeros((2, 12, 4, 5, 1), np.uint8)
    rows = [{"person": person, "label": "AD", "given": "1 10"} for person in ("a", "b")]
    sampling.people_folder.montage_sheet(tmp_path / "sheet.png", montages, rows, "title")
    assert [i for i, caption in enumerate(sheets[0]["captions"]) if caption == "given"] == [1, 10, 21, 30]
    drawn = [{name: row[name] for name in ("person", "label")} for row in rows]
    sampling.people_folder.montage_sheet(tmp_path / "sheet.png", montages, drawn, "title")
    assert not sheets[1]["captions"]


def test_positions_alone_are_refused_and_nothing_is_written(run_predict, tmp_path):
    with pytest.raises(UserError, match="--positions says where the slices of --complete are: give both"):
        run_predict("people", "--positions", 1)
    with pytest.raises(UserError, match="neither a folder of slices nor a file"):
        run_predict("people", "--complete", tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()
