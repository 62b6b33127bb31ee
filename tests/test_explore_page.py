"""The page that explores a run: by Streamlit's own tester, and in a real browser."""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
import pytest
from test_explore import pixels

from report.marked import png_bytes
from sampling import serving
from sampling.explore import painted_pixels, show_answer, show_completions
from sampling.run import Run
from sampling.scoring import load_validation

ROOT = Path(__file__).parents[1]
MINUTE = 60_000  # milliseconds


def test_the_streamlit_of_the_sentence_is_the_one_that_is_tested():
    assert serving.STREAMLIT in (ROOT / ".ci" / "requirements.txt").read_text().split()


# ---- as Streamlit plays it ----------------------------------------------------------------------


@pytest.fixture
def page(finished_run, slices_folder, monkeypatch):
    testing = pytest.importorskip("streamlit.testing.v1", reason="Streamlit is not installed")
    monkeypatch.setattr(sys, "argv", ["explore_page.py", str(finished_run), str(slices_folder)])
    return testing.AppTest.from_file(str(serving.PAGE), default_timeout=300).run()


def button(page, label):
    return next(one for one in page.button if one.label == label)


def pictures(page):
    """The bytes that the page's download buttons give."""
    return [one.proto.url for one in page.get("download_button")]


def test_the_page_draws_slices_and_people(page):
    assert not page.exception and not pictures(page)
    page.number_input[0].set_value(2)
    button(page, "Draw").click().run()
    assert len(page.session_state.drawn) == 2 and len(pictures(page)) == 1
    assert not page.exception and not page.error
    page.radio[0].set_value("people")
    button(page, "Draw").click().run()
    assert [one.name for one in page.session_state.drawn] == ["sampled00000.png", "sampled00001.png"]


def test_a_bad_file_is_one_sentence_and_a_good_one_is_answered(page, slice_path):
    page.file_uploader[0].set_value(("notes.png", b"hello", "image/png")).run()
    assert [one.value for one in page.error] == ["notes.png cannot be read (not a PNG, JPEG or NIfTI file)"]
    page.file_uploader[0].set_value(("a.png", slice_path.read_bytes(), "image/png")).run()
    assert not page.error
    button(page, "Ask").click().run()
    assert [one.name for one in page.session_state.answer] == ["answer.png"] and not page.info
    button(page, "Complete").click().run()
    assert [one.value for one in page.error] == ["nothing is painted that the model draws: paint over what to complete"]
    page.file_uploader[0].set_value(("b.png", png_bytes(np.full((32, 40), 9, np.uint8)), "image/png")).run()
    assert not page.session_state.answer  # which was of another slice


# ---- in a browser -------------------------------------------------------------------------------


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def served(finished_run, slices_folder, tmp_path_factory):
    """The page in a process of its own, in an empty folder with an empty home: its address and that folder."""
    pytest.importorskip("streamlit", reason="Streamlit is not installed")
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    for name in ("here", "home", "temporary"):
        (folder / name).mkdir()
    words = ["explore", "--run", str(finished_run), "--data", str(slices_folder), "--port", str(port)]
    places = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary")}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "predict.py"), *words],
        cwd=folder / "here",
        env=os.environ | places,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert f"http://127.0.0.1:{port}" in process.stdout.readline()
    wait_for("127.0.0.1", port)
    yield f"http://127.0.0.1:{port}", folder
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert "Traceback" not in process.stdout.read()
    assert not list((folder / "temporary").iterdir())


def wait_for(host, port, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return socket.create_connection((host, port), 5).close()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nothing listens at {host}:{port}")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium of the distribution."""
    driver = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])  # root has none
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, served):
    """The page in the browser; whatever it asks for must be of this machine."""
    address, _ = served
    context = browser.new_context(accept_downloads=True, viewport={"width": 1400, "height": 1100})
    tab, asked = context.new_page(), []
    tab.set_default_timeout(3 * MINUTE)
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    tab.get_by_role("button", name="Draw", exact=True).wait_for()
    yield tab
    context.close()
    assert asked and {re.match(r"(?:\w+://([^/:]+)|data|blob)", url)[1] for url in asked} <= {"127.0.0.1", None}


def downloaded(tab, number=0):
    """The bytes of what the page gives to download; and those that it shows, which are in it."""
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download what is shown").nth(number).click()
    return Path(download.value.path()).read_bytes()


def upload(tab, name, content):
    tab.get_by_role("tab", name="Ask about a slice").click()
    tab.locator("input[type=file]").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})


@pytest.mark.slow
def test_a_browser_draws_and_downloads_the_bytes_of_predict(tab, finished_run):
    tab.get_by_label("how many", exact=True).fill("3")
    tab.get_by_label("seed", exact=True).fill("5")
    tab.get_by_role("button", name="Draw", exact=True).click()
    tab.locator("[data-testid=stImage] img").nth(2).wait_for()
    with zipfile.ZipFile(io.BytesIO(downloaded(tab))) as file:
        given = [file.read(name) for name in sorted(file.namelist())]
    run = Run(finished_run)
    for png, image in zip(given, run.sample(3, seed=5).images, strict=True):
        assert np.array_equal(pixels(png)[: run.frame[0], : run.frame[1]], image)
    on_screen = [one.get_attribute("src") for one in tab.locator("[data-testid=stImage] img").all()]
    assert [tab.request.get(urljoin(tab.url, src)).body() for src in on_screen] == given


@pytest.mark.slow
def test_a_browser_asks_paints_and_completes_and_nothing_is_kept(tab, served, finished_run, slice_path):
    upload(tab, "a.png", slice_path.read_bytes())
    tab.get_by_role("button", name="Ask", exact=True).click()
    tab.get_by_role("button", name="Download what is shown").wait_for()
    run = Run(finished_run)
    image = run.load(slice_path.parent, [slice_path.name]).images[0, ..., 0]
    assert downloaded(tab) == show_answer(run, image, validation=load_validation(run)).png

    canvas = tab.locator("canvas").nth(1)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 + 40, steps=4)
    tab.mouse.up()
    tab.wait_for_function("document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'")
    tab.get_by_role("button", name="Complete", exact=True).click()
    tab.get_by_role("button", name="Download what is shown").nth(1).wait_for()
    painted = painted_pixels(run, canvas.evaluate("canvas => canvas.toDataURL()"))
    assert 0 < painted.sum() < painted.size / 2
    assert downloaded(tab, 1) == show_completions(run, image, painted, 4).png

    _, folder = served
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert not any(name.endswith((".png", ".nii", ".gz")) for name in left)
    assert not list((folder / "here").iterdir())


@pytest.mark.slow
def test_a_browser_is_told_what_is_wrong_with_a_file(tab, served):
    upload(tab, "bad.png", b"hello")
    tab.get_by_text("bad.png cannot be read (not a PNG, JPEG or NIfTI file)").wait_for()
    tab.reload()
    random = np.random.default_rng(0).integers(0, 256, (2300, 2300), dtype=np.uint8)
    upload(tab, "noise.png", png_bytes(random))  # 5 MB: more than a server keeps in memory while it is received
    tab.get_by_role("button", name="Ask", exact=True).wait_for()
    tab.reload()
    upload(tab, "large.png", bytes(21 * 2**20))
    tab.get_by_text(re.compile("must be 20.*MB or smaller")).wait_for()
    _, folder = served
    assert all(path.name.startswith("__autograph") for path in (folder / "temporary").iterdir())
