"""The reader study: a page that tells nothing, a key that is true, and a score."""

import base64
import html
import io
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import predict
from report.study_page import MARK
from sampling.reader_study import reader_score
from sampling.run import Run
from slices.frame import crop
from slices.images import load_images
from utils import UserError

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def study_images(page):
    """The pictures of a page, in order."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [base64.b64decode(text) for text in found]


@pytest.fixture(scope="module")
def study(finished_run, tmp_path_factory):
    """A reader study of four real slices and four samples of the tiny run."""
    folder = tmp_path_factory.mktemp("study") / "study"
    predict.main(["reader-study", "4", "--run", str(finished_run), "--seed", "2", "--out", str(folder)])
    return folder


def test_the_key_of_a_reader_study_is_true(finished_run, slices_folder, study):
    run = Run(finished_run)
    key = pd.read_csv(study / "key.csv")
    assert list(key["image"]) == list(range(1, 9)) and (key["truth"] == "real").sum() == 4
    real = key[key["truth"] == "real"]
    slices = pd.read_csv(finished_run / "slices.csv").set_index("path")
    assert set(slices.loc[real["source"], "split"]) == {"validation"}
    assert slices.loc[real["source"], "subject"].nunique() == 2  # as many people as there are
    conditions = [sorted(zip(part["label"], part["position"], strict=True)) for _, part in key.groupby("truth")]
    assert conditions[0] == conditions[1]
    shown = study_images((study / "study.html").read_text())
    assert len(set(shown)) == 8
    for image, row in zip(shown, key.itertuples(), strict=True):
        with Image.open(io.BytesIO(image)) as png:
            assert png.mode == "L" and not png.info and png.size == (run.box.width, run.box.height)
            if row.truth == "real":
                expected = crop(load_images(slices_folder, [row.source], run.frame).images, run.box)[0, ..., 0]
                assert np.array_equal(np.asarray(png), expected)


def test_the_page_of_a_reader_study_tells_nothing_and_loads_nothing(finished_run, study):
    page = (study / "study.html").read_text()
    words = re.sub(r'base64,[^"]+', "", page)
    slices = pd.read_csv(finished_run / "slices.csv")
    for secret in {
        *slices["subject"].astype(str),
        *slices["path"],
        *slices["label"],
        "validation",
        "seed",
        "http",
        str(finished_run),
        finished_run.name,
    }:
        assert not re.search(rf"\b{re.escape(secret)}\b", words), secret
    assert MARK in html.unescape(page)
    order = pd.read_csv(study / "key.csv")["truth"]
    assert order.nunique() == 2 and not order.is_monotonic_increasing and not order.is_monotonic_decreasing


def test_a_reader_study_repeats_by_its_seed_and_the_mark_can_be_left_out(finished_run, study, tmp_path):
    for name, flags in (("same", ["--seed", "2", "--cc0"]), ("other", ["--seed", "3"])):
        predict.main(["reader-study", "4", "--run", str(finished_run), "--out", str(tmp_path / name), *flags])
    pages = {
        name: (folder / "study.html").read_text()
        for name, folder in {"first": study, "same": tmp_path / "same", "other": tmp_path / "other"}.items()
    }
    assert study_images(pages["first"]) == study_images(pages["same"]) != study_images(pages["other"])
    assert "<p class=mark>" in pages["other"] and "<p class=mark>" not in pages["same"]
    assert (study / "key.csv").read_text() == (tmp_path / "same" / "key.csv").read_text()


@pytest.mark.skipif(not BROWSER, reason="there is no browser")
def test_a_reader_study_in_a_headless_browser(study, tmp_path):
    """Every third answer by the keyboard, the others by the buttons; what would be saved is scored."""
    robot = """<pre id=saved></pre><script>
    URL.createObjectURL = file => { file.text().then(text => { part("saved").textContent = text; }); return "#"; };
    part("reader").value = "A, B<i>";
    part("begin").click();
    for (let i = 0; i < images.length; i++) {
      if (document.querySelectorAll("img.now").length !== 1 || !images[i].classList.contains("now")) break;
      if (i % 3) document.querySelector("[data-answer=real]").click();
      else dispatchEvent(new KeyboardEvent("keydown", {key: "M"}));
    }</script>"""
    page = tmp_path / "study.html"
    page.write_text((study / "study.html").read_text().replace("</body>", robot + "</body>"))
    dumped = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'browser'}",
            "--virtual-time-budget=3000",
            "--dump-dom",
            f"file://{page}",
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    saved = re.search('<pre id="saved">(.*?)</pre>', dumped, re.S)[1]
    answers = pd.read_csv(io.StringIO(saved))
    assert list(answers.columns) == ["study", "reader", "image", "answer", "seconds"]
    assert list(answers["answer"]) == ["real" if i % 3 else "sampled" for i in range(8)]
    assert set(answers["reader"]) == {"A Bi"} and set(answers["study"]) == set(pd.read_csv(study / "key.csv")["study"])


def write_answers(folder, right, wrong, study="abc"):
    """A key of so many images, and answers of which the first are right."""
    count = right + wrong
    truth = ["real", "sampled"] * count
    key = pd.DataFrame({"study": "abc", "image": range(1, count + 2), "truth": truth[: count + 1]})
    answers = pd.DataFrame(
        {
            "study": study,
            "reader": "X",
            "image": range(1, count + 1),
            "answer": truth[:right] + truth[right + 1 : count + 1],
            "seconds": 1.0,
        }
    )
    key.to_csv(folder / "key.csv", index=False)
    answers.to_csv(folder / "answers.csv", index=False)
    return folder / "answers.csv"


def test_the_score_of_a_reader_has_wilson_s_interval(tmp_path, capsys):
    predict.main(["reader-score", str(write_answers(tmp_path, 31, 9))])
    said = capsys.readouterr().out
    n, p, z = 40, 31 / 40, 1.959963984540054  # Wilson 1927, by hand
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    assert f"31 of 40, 0.775 [{low:.3f}, {high:.3f}]" in said
    assert "real slices told: 16 of 20" in said and "sampled slices told: 15 of 20" in said
    assert "1 of 41 images not answered" in said


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "key.csv").unlink(), "key.csv cannot be read"),
        (lambda folder: (folder / "answers.csv").unlink(), "answers.csv cannot be read"),
        (lambda folder: (folder / "answers.csv").write_text("a,b\n1,2\n"), "cannot be read as a table of study"),
        (lambda folder: (folder / "answers.csv").write_text("study,image,answer\n"), "another study"),
        (lambda folder: write_answers(folder, 2, 2, study="xyz"), "another study"),
        (lambda folder: (folder / "answers.csv").write_text("study,image,answer\nabc,1,maybe\n"), "as the page wrote"),
        (lambda folder: (folder / "answers.csv").write_text("study,image,answer\nabc,99,real\n"), "as the page wrote"),
        (lambda folder: (folder / "answers.csv").write_text("study,image,answer\nabc,one,real\n"), "cannot be read"),
        (lambda folder: (folder / "answers.csv").write_text("study,image,answer\n" + 2 * "abc,1,real\n"), "twice"),
    ],
)
def test_answers_that_cannot_be_scored_are_one_sentence(spoil, sentence, tmp_path):
    write_answers(tmp_path, 2, 2)
    spoil(tmp_path)
    with pytest.raises(UserError, match=sentence) as error:
        reader_score(tmp_path / "answers.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["reader-study", "0"], "argument N: must be at least 1"),
        (["reader-study", "9"], "8 usable slices of validation people, not 9"),
        (["reader-study", "2", "--data", "nowhere"], "is not there: say where it is with --data"),
    ],
)
def test_mistakes_leave_nothing(words, sentence, finished_run, tmp_path):
    with pytest.raises(UserError, match=sentence) as error:
        predict.main([*words, "--run", str(finished_run), "--out", str(tmp_path / "out")])
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []
