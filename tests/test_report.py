"""What is shown of an evaluation, in words, in figures and on a page, and what is not shown to whom."""

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from evaluations import KEYS, against, evaluation, without_null
from PIL import Image
from test_sets import brains

from metrics.samples import spectra_of
from report import figures
from report.model_card import measured_lines
from report.numbers import judged, plain_name, print_summary, set_against, summary_rows, verdict_sentences
from report.page import write_report
from report.poster import list_numbers

TOLD = ("two_sample_auc", "anatomy.asymmetry_effect", "spectrum.band_8")


@pytest.fixture
def pictures():
    """Images for the figures of a folder: there are no codes."""
    real, samples = brains(4), brains(4, seed=1)
    sets = SimpleNamespace(
        originals=real,
        reference=real,
        samples=samples,
        all_samples=samples,
        shown=samples,
        search=real,
        labels=["AD", "NC"],
    )
    return {"sets": sets, "neighbours": [(0, 1, 0.5)], "spectra": spectra_of(sets)}


# ---- words --------------------------------------------------------------------------------------


def test_verdicts_are_counted_for_each_reference_and_chance_is_told():
    metrics = evaluation(against(TOLD, cannot_tell=("kid", "recall")), against())
    real, reconstructions, chance = verdict_sentences(metrics)
    assert real == (
        "Against real slices (would you take it for one?): 3 of 28 numbers are told apart, 23 are consistent with a "
        "perfect prior, 2 cannot tell."
    )
    assert "reconstructions (is the prior right?): 0 of 28 numbers are told apart, 28 are" in reconstructions
    assert "any red verdict at all in at most 5 % of evaluations" in chance and "Holm" in chance


def test_where_there_is_no_null_nothing_is_judged_and_chance_is_not_spoken_of():
    metrics = evaluation(without_null(against()), without_null(against()))
    assert verdict_sentences(metrics) == [
        "Against real slices (would you take it for one?): cannot tell, too few people.",
        "Against reconstructions (is the prior right?): cannot tell, too few people.",
    ]
    assert not any(row.is_red for row in summary_rows(metrics) if row.against)


def test_a_folder_has_no_reconstructions_and_says_why():
    metrics = evaluation()
    metrics["samples"] |= {"against_reconstructions": None, "against_reconstructions_why": "images have no codes"}
    assert verdict_sentences(metrics)[1].endswith(": not measured, images have no codes.")
    assert {row.section for row in summary_rows(metrics) if row.against} == {"against_real"}


def test_every_number_with_a_verdict_is_found_once_by_its_dotted_key():
    keys = [key for key, *_ in judged(against())]
    assert len(keys) == len(set(keys)) == 28
    assert {*KEYS, *TOLD} <= set(keys)
    for key, section, name in judged(against(TOLD)):
        assert (section[f"{name}_verdict"] == "told apart") == (key in TOLD)


def test_rows_are_red_where_told_apart_and_nowhere_else():
    rows = summary_rows(evaluation(against(("frechet",), cannot_tell=("kid",)), against(("kid",))))
    red = {(row.name, row.against) for row in rows if row.is_red}
    assert red == {
        ("Fréchet distance", "real slices"),
        ("kernel distance", "reconstructions"),
        ("nearest-neighbour ratio", ""),  # 0.5, where its null begins at 0.75
    }
    (frechet,) = [row for row in rows if (row.name, row.against) == ("Fréchet distance", "real slices")]
    assert (frechet.value, frechet.perfect_prior) == ("2.00 [1.50, 2.50]", "0.50 [0.00, 1.00]")
    assert (frechet.other_people, frechet.verdict) == ("1.00 [-1.00, 3.00]", "told apart")


@pytest.mark.parametrize(("ratio", "is_red"), [(0.74, True), (0.75, False), (1.3, False)])
def test_a_nearest_neighbour_ratio_is_red_below_its_null_only(ratio, is_red):
    metrics = evaluation()
    metrics["memorisation"]["nn_ratio"] = ratio
    (row,) = [row for row in summary_rows(metrics) if row.name == "nearest-neighbour ratio"]
    assert row.is_red == is_red and row.other_people == "1.000 [0.750, 1.250]" and row.perfect_prior == "–"


def test_the_references_of_a_number_follow_each_other_and_real_slices_come_first():
    rows = [row for row in summary_rows(evaluation()) if row.against]
    assert [row.against for row in rows] == ["real slices", "reconstructions"] * (len(rows) // 2)
    assert [row.name for row in rows[::2]] == [row.name for row in rows[1::2]]
    assert rows[0].name == "two-sample AUC"


def test_manifold_numbers_are_shown_from_50_people():
    few, many = (
        {row.name for row in summary_rows(evaluation(people=people)) if row.section == "against_real"}
        for people in (49, 50)
    )
    assert many - few == {"precision", "recall", "density", "coverage"}


def test_what_has_no_value_says_why():
    metrics = evaluation()
    metrics["samples"]["against_real"] |= {"diversity": None, "diversity_why": "no two people share a label"}
    (row,) = [row for row in summary_rows(metrics) if (row.name, row.section) == ("diversity", "against_real")]
    assert (row.value, row.meaning) == ("–", "no two people share a label")


def test_keys_have_plain_names():
    assert plain_name("detail_auc") == "AUC of fine detail"
    assert plain_name("anatomy.grey_fraction_effect") == "grey fraction (effect size)"
    assert plain_name("spectrum.band_3") == "power, band 3"
    assert plain_name("recall") == "recall"


def test_the_terminal_tells_verdicts_first_then_each_reference(capsys):
    print_summary(evaluation(against(TOLD), notes=["n = 8 people: exploratory"]))
    out = capsys.readouterr().out
    parts = ["note: n = 8", "3 of 28", "0 of 28", "By chance", "against real slices:", "against reconstructions:"]
    assert sorted(parts, key=out.index) == parts
    (line,) = [line for line in out.splitlines() if "told apart" in line and "two-sample AUC" in line]
    assert " ".join(line.split()) == "two-sample AUC 2.000 perfect prior 0.500 [0.000, 1.000] told apart"
    assert "membership, weights: likelihood" in out and "AUC 0.75 [0.70, 0.80], told 25 % at 2.4 % false alarms" in out


def test_the_model_card_has_both_references_and_the_attacks(tmp_path):
    lines = measured_lines(tmp_path, evaluation(against(("frechet",))))
    numbers = "2.00 [1.50, 2.50] | 0.50 [0.00, 1.00] | 1.00 [-1.00, 3.00]"
    assert f"| Fréchet distance | real slices | {numbers} | told apart |" in lines
    assert f"| Fréchet distance | reconstructions | {numbers} | consistent |" in lines
    assert "| likelihood | weights | 0.75 [0.70, 0.80] | 60 | 25 % at 2.4 % false alarms |" in lines
    table = lines[lines.index("|---|---|---|---|---|---|") - 1 : lines.index("## Memorisation") - 1]
    assert {line.count("|") for line in table} == {7}


def test_the_poster_lists_numbers_against_real_slices_and_reads_old_evaluations(tmp_path):
    metrics = evaluation(against(("kid",)), against(("frechet",)))

    def red_and_all(metrics):
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        axes = figures.Figure().subplots()
        list_numbers(axes, tmp_path)
        red = [text.get_text() for text in axes.texts if text.get_color() != "white"]
        return red, [text.get_text() for text in axes.texts]

    red, written = red_and_all(metrics)
    nearest = ["nearest-neighbour ratio", "0.500", "1.000 [0.750, 1.250]"]
    assert red == ["kernel distance", "2.000 [1.500, 2.500]", "0.500 [0.000, 1.000]", *nearest]
    assert written.count("Fréchet distance") == 1
    red, written = red_and_all(metrics | {"samples": {"frechet": 3.0, "anatomy": {}}})
    assert red == nearest and "Fréchet distance" not in written and "SSIM in the brain" in written


# ---- the page -----------------------------------------------------------------------------------


class Page(HTMLParser):
    """The elements of a page: what is open where a tag begins, and what a tag holds."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.headings = [], [], []
        self.feed(text)
        assert not self.open  # every element was closed

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), tuple(self.open)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] in ("h2", "summary"):
            self.headings.append(text)


def test_page_is_in_order_whole_and_asks_for_nothing(tmp_path, pictures):
    write_report(tmp_path, {"real": "a"}, evaluation(against(TOLD)), pictures)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    sections = ["reconstruction", "rate", "prior", "samples", "memorisation"]
    assert page.headings == [
        *("Verdicts", "Pictures", "Memorisation", "All numbers"),
        *sections,
        *("How it was computed", "Config"),
    ]
    assert not {"script", "link", "a"} & {tag for tag, *_ in page.tags} and "http" not in text
    assert sum(tag == "details" and "open" not in attributes for tag, attributes, _ in page.tags) == len(sections)
    tables = [around for tag, _, around in page.tags if tag == "table"]
    assert sum("details" in around for around in tables) == len(sections) and len(tables) == len(sections) + 3
    pictures_at = [attributes["src"][:22] for tag, attributes, _ in page.tags if tag == "img"]
    assert pictures_at == ["data:image/png;base64,"] * 6
    assert text.index("3 of 28") < text.index("<figure>") < text.index("<table>")
    membership = text[text.index("<h3>Membership") :]
    assert membership.index("25 % of training people are told at 1 false alarm in 42") < membership.index("<table>")


def lines_of(text, start):
    """The rows of the first table after ``start``: of each, (text, attributes) of its cells."""
    rows = text[text.index("<table>", text.index(start)) :].split("</table>")[0].split("<tr>")[1:]
    return [re.findall(r"<t[hd]([^>]*)>(.*?)(?=<t[hd]|</tr>)", row) for row in rows]


def test_cells_stand_under_their_heads_and_verdicts_are_painted(tmp_path, pictures):
    write_report(tmp_path, {}, evaluation(against(("kid",))), pictures)
    text = (tmp_path / "report.html").read_text()
    for start, columns in (("<h2>Verdicts", 5), ("<h2>Memorisation", 3), ("<h3>Membership", 3)):
        heads, *lines = lines_of(text, start)
        for line in lines:
            words = [re.search("data-of='(.*)'", attributes)[1] for attributes, _ in line if "data-of" in attributes]
            assert len(words) in (columns, 0)  # 0: the title of some lines
            for word, (_, head) in zip(words, heads[-columns:], strict=bool(words)):
                assert head.startswith(word)
    red = [line for line in lines_of(text, "<h2>Verdicts") if any("out" in attributes for attributes, _ in line)]
    assert len(red) == 1
    assert [cell.split("<")[0] for _, cell in red[0]] == [
        *("kernel distance", "real slices", "2.000 [1.500, 2.500]", "told apart"),
        *("0.500 [0.000, 1.000]", "1.000 [-1.000, 3.000]"),
    ]


def test_number_tables_have_every_number_with_both_bands(tmp_path, pictures):
    metrics = evaluation(against(("kid",)))
    write_report(tmp_path, {}, metrics, pictures)
    text = (tmp_path / "report.html").read_text()
    for key, section, name in judged(metrics["samples"]["against_real"]):
        found = text.split(f"<tr><td>against_real.{key}</td>")
        assert len(found) == 2
        cells = found[1].split("</tr>")[0].removesuffix("</td>").removeprefix("<td>").split("</td><td>")
        value = "2 [1.5, 2.5]" if isinstance(section[name], dict) else "2"
        verdict, p = ("told apart", "0.0001") if key == "kid" else ("consistent", "0.4")
        assert cells == [value, "0.5 [0, 1]", "1 [-1, 3]", verdict, p, "", "5", "50", "", ""]


def test_shareable_report_has_no_participant_and_is_refused_with_copies(tmp_path, pictures):
    metrics_of = evaluation(cohort={"by_sex": {"F": {"people": 3}}})
    metrics_of["memorisation"]["verdict"] = "copies found"
    (tmp_path / "report_shareable.html").write_text("of an earlier evaluation")
    assert "share nothing" in write_report(tmp_path, {}, metrics_of, pictures, shareable=True)
    assert (tmp_path / "report.html").exists() and not (tmp_path / "report_shareable.html").exists()
    metrics_of["memorisation"]["verdict"] = "no copies found by a search"
    assert write_report(tmp_path, {}, metrics_of, pictures, shareable=True) is None
    page, whole = (tmp_path / "report_shareable.html").read_text(), (tmp_path / "report.html").read_text()
    assert page.count("<img") == 4 and whole.count("<img") == 6
    for said in (
        "contains participants",
        "unseen people at the same labels",
        "training slices as reconstructed",
        "by_sex",
    ):
        assert said in whole and said not in page


# ---- figures ------------------------------------------------------------------------------------


def sheet_of(monkeypatch, draw, *arguments):
    """What a figure gives to ``image_sheet``: (images, columns, names)."""
    given = []
    monkeypatch.setattr(
        figures, "image_sheet", lambda path, images, columns, names, *_: given.append((images, columns, names))
    )
    draw(*arguments)
    return given[0]


def test_samples_stand_above_real_slices_the_first_of_each_label_and_position(tmp_path, pictures, monkeypatch):
    sets = pictures["sets"]
    images, columns, names = sheet_of(monkeypatch, figures.side_by_side_figure, tmp_path / "x.png", sets)
    rows = (255 * images[..., 0]).round().reshape(-1, columns, *sets.originals.images.shape[1:])
    assert columns == 4 and names == ["samples\nAD", "", "real\nAD", "", "samples\nNC", "", "real\nNC", ""]
    for row, (side, label, repeat) in enumerate(
        (side, label, repeat) for label in (1, 2) for side in (sets.shown, sets.originals) for repeat in (0, 1)
    ):
        for position in range(4):
            expected = [
                image
                for image, *where in zip(side.images, side.label, side.position, strict=True)
                if where == [label, position]
            ][repeat]
            assert np.array_equal(rows[row, position], expected)


def test_what_there_is_no_second_of_stays_black(tmp_path, pictures, monkeypatch):
    sets = pictures["sets"]
    sets.originals = sets.originals.take(sets.originals.person == "p0")  # the label AD alone, once a position
    images, columns, names = sheet_of(monkeypatch, figures.side_by_side_figure, tmp_path / "x.png", sets)
    assert names == ["samples\nAD", "", "real\nAD", ""]
    assert not images[3 * columns :].any() and images[2 * columns : 3 * columns].any(axis=(1, 2, 3)).all()


def dots_of(monkeypatch, draw, metrics, path):
    """What a figure of numbers shows: for each panel, its title, and colour and place of what is drawn."""
    found = []

    def plot(path, fill, size, columns, squeeze):
        figure = figures.Figure()
        axes = figure.subplots(1, columns, squeeze=squeeze)
        fill(axes)
        found.extend(axes[0])

    monkeypatch.setattr(figures, "plot", plot)
    draw(path, metrics)
    return found


def places(panel, colour):
    """(x, y) of every dot of this colour in a panel."""
    return {
        tuple(map(float, dots.get_offsets()[0]))
        for dots in panel.collections
        if len(dots.get_facecolor()) and tuple(dots.get_facecolor()[0][:3]) == figures.matplotlib.colors.to_rgb(colour)
    }


def test_null_figure_puts_each_number_in_units_of_a_perfect_prior(tmp_path, monkeypatch):
    metrics = evaluation(against(TOLD, cannot_tell=("kid",)), against(("kid",)))
    metrics["samples"]["against_real"] |= {"two_sample_auc": 70.0, "kid": 0.25}
    real, reconstructions = dots_of(monkeypatch, figures.null_figure, metrics, tmp_path / "x.png")
    assert real.get_title() == "against real slices" and reconstructions.get_title() == "against reconstructions"
    assert len(real.get_yticks()) == 28
    red, black, blue = (figures.VERDICTS[verdict] for verdict in ("told apart", "cannot tell", "consistent"))
    keys = [key for key, *_ in judged(metrics["samples"]["against_real"])]
    assert places(real, red) == {(7, keys.index("two_sample_auc"))} | {(2, keys.index(key)) for key in TOLD[1:]}
    assert places(real, black) == {(0.25, keys.index("kid"))} and len(places(real, blue)) == 24
    assert places(reconstructions, red) == {(2, keys.index("kid"))} and len(places(reconstructions, blue)) == 27
    bars = {(line.get_color(), tuple(map(float, line.get_xdata()))) for line in real.lines}
    assert bars == {(figures.NULL, (0, 1)), (figures.OTHERS, (-1, 3))}


def test_numbers_without_a_null_are_not_drawn_and_a_folder_has_one_panel(tmp_path, monkeypatch):
    metrics = evaluation(without_null(against()))
    metrics["samples"]["against_reconstructions"] = None
    (panel,) = dots_of(monkeypatch, figures.null_figure, metrics, tmp_path / "x.png")
    assert not panel.collections and not panel.lines


def test_power_figure_has_a_dot_a_band(tmp_path, monkeypatch):
    metrics = evaluation(against(("spectrum.band_8",)))
    metrics["samples"]["against_real"]["spectrum"]["band_8"] = -0.5
    real, _ = dots_of(monkeypatch, figures.power_figure, metrics, tmp_path / "x.png")
    assert places(real, figures.VERDICTS["told apart"]) == {(8, -0.5)}
    assert places(real, figures.VERDICTS["consistent"]) == {(band, 2) for band in range(1, 8)}


def test_figures_are_written_and_only_some_show_participants(tmp_path, pictures):
    drawn = figures.draw_figures(tmp_path / "figures", evaluation(), pictures)
    assert [name for name, _, participants in drawn if participants] == [
        "samples_and_real.png",
        "nearest_neighbours.png",
    ]
    assert drawn[0][0] == "samples_and_real.png"
    for name, *_ in drawn:
        assert np.asarray(Image.open(tmp_path / "figures" / name).convert("L")).std() > 5, name


def test_spectra_leave_out_reconstructions_where_there_are_none():
    real, samples = brains(3), brains(3, seed=1)
    sets = SimpleNamespace(originals=real, reference=real, shown=samples)
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
