"""A blinded page that asks readers which slices are real, and how many they told."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from report.study_page import MARK, SIMULATED, write_reader_study
from sampling.draws import check_draw, draw_held_out, output_folder
from slices.frame import crop
from slices.index import condition_ids
from slices.tables import read_search
from utils import UserError, new_folder, random_generator, shell, write_csv


def reader_study(run, count, seed=0, cc0=False, out=None, **draw):
    """Write study.html, a blinded page of real slices and samples, and key.csv, which tells them apart.

    Each real slice has a sample of its label and position; both are cropped and stored alike.

    Args:
        run: Run, whose slices must be there.
        count: real slices of validation people, from 1, and as many samples.
        seed: as in ``Run.sample``.
        cc0: the run's slices are in the public domain: leave out the mark that says do not share.
        out: a new folder (default: <run>/samples/reader-study-<time>).
        draw: temperature, top_k, top_p, guidance: as in ``Run.sample``.

    Returns:
        The folder, a Path.

    Raises:
        UserError: there are not so many slices, or the run's data is not there.
    """
    check_draw(count, seed, **draw)
    real, originals = draw_held_out(run, count, seed)
    out = output_folder(out, run, "reader-study-{time}")
    with new_folder(out) as unfinished:
        columns = condition_ids(real, run.labels)
        blocks = run.draw(columns["label"], columns["position"], seed, **draw)
        samples = np.concatenate([block.images for block in blocks])[..., None]
        images = crop(np.concatenate([originals, samples]), run.box)  # (2 count, h, w, 1)
        order = random_generator(seed, "reader study").permutation(2 * count)
        mark = SIMULATED if run.config["simulated"] else None if cc0 else MARK
        study = write_reader_study(unfinished / "study.html", images[order], mark)
        write_csv(
            unfinished / "key.csv",
            [
                {
                    "study": study,
                    "image": place + 1,
                    "truth": "real" if i < count else "sampled",
                    "source": real["path"].iloc[i]
                    if i < count
                    else f"sample {i - count} of seed {seed}, block {run.block}",
                    "label": real["label"].iloc[i % count],
                    "position": real["position"].iloc[i % count],
                }
                for place, i in enumerate(order)
            ],
        )
    print(
        f"{out / 'study.html'} is for the reader; {out / 'key.csv'} tells which are real: keep it to yourself\n"
        "next: put the reader's answers beside the key, and "
        f"{shell('python', 'predict.py', 'reader-score', out / 'answers.csv')}"
    )
    return out


def reader_score(answers):
    """Print how many slices a reader told right, with Wilson intervals (Wilson 1927).

    Args:
        answers: the CSV that the page gave, with the study's key.csv beside it.

    Returns:
        DataFrame of study, image, answer, truth: a row for each answer.

    Raises:
        UserError: either file cannot be read, or they do not belong together.
    """
    table, key = read_answers(Path(answers))
    right = table["answer"] == table["truth"]
    print(f"accuracy: {proportion(right)}; guessing is 0.5")
    for truth in ("real", "sampled"):
        print(f"{truth} slices told: {proportion(right[table['truth'] == truth])}")
    print(
        f"{len(key) - len(table)} of {len(key)} images not answered; intervals are Wilson's, 95 %, and take "
        "the answers for independent"
    )
    return table


def read_answers(path):
    """The answers of a reader with the truth beside them, and the key: two DataFrames; see ``reader_score``."""
    answers = read_columns(path, ("study", "image", "answer"))
    key = read_columns(path.with_name("key.csv"), ("study", "image", "truth"))
    if set(answers["study"]) != set(key["study"]):
        raise UserError(f"{path} answers another study than the key.csv beside it")
    both = pd.merge(answers, key[["image", "truth"]], on="image", how="left")
    if both["truth"].isna().any() or not set(answers["answer"]) <= {"real", "sampled"}:
        raise UserError(
            f"{path} is not as the page wrote it: each answer must be real or sampled, and each image one of the key's"
        )
    if answers["image"].duplicated().any():
        raise UserError(
            f"{path} answers image {answers['image'][answers['image'].duplicated()].iloc[0]} twice: score "
            "one reader at a time"
        )
    return both, key


def read_columns(path, names):
    """A CSV with these columns, all of them text but ``image``.

    Raises:
        UserError: it is not there, or has not these columns.
    """
    try:
        table = read_search(path)
        return table.assign(image=table["image"].astype(int))[list(names)]
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read as a table of {', '.join(names)} ({reason})") from None


def proportion(right):
    """A Series of bool as text: how many, their share, its Wilson interval."""
    if not len(right):
        return "none answered"
    share = binomtest(int(right.sum()), len(right))
    low, high = share.proportion_ci(method="wilson")
    return f"{right.sum()} of {len(right)}, {right.mean():.3f} [{low:.3f}, {high:.3f}]"
