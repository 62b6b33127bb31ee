"""The page that explores a run, as a browser shows it: drawn slices, and a slice that was asked about and completed.

It needs Streamlit, Playwright and a Chromium: pip install -r .ci/requirements.txt; apt-get install chromium.
"""

import io
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from utils import Parser, UserError, run_script, whole_file

ROOT = Path(__file__).parents[1]
DRAWN, ASKED = (1280, 1000), (1280, 2240)  # width and height of the window
EMPTY = 64  # pixels above the title
COLOURS = 128
PATIENCE = 600_000  # milliseconds


def main(argv):
    """Write explore.png and explore_slice.png."""
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True, metavar="NAME", help="name under runs/, or a path")
    parser.add_argument("--data", required=True, metavar="DIR", help="where its slices are")
    parser.add_argument("--slice", required=True, metavar="SLICE", help="the slice to ask about")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder for the two pictures")
    parser.add_argument("--port", default="8601", metavar="N", help="of the page (default 8601)")
    flags = parser.parse_args(argv)
    chromium = shutil.which("chromium")
    if chromium is None:
        raise UserError("there is no Chromium: apt-get install chromium")
    words = ["predict.py", "explore", "--run", flags.run, "--data", flags.data, "--port", flags.port]
    server = subprocess.Popen([sys.executable, str(ROOT / words[0]), *words[1:]])
    try:
        wait_for(int(flags.port), server)
        take(f"http://127.0.0.1:{flags.port}", chromium, Path(flags.slice), Path(flags.out))
    finally:
        server.terminate()
        server.wait()


def wait_for(port, server):
    """Wait until the server listens."""
    while server.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.5)
    raise UserError("the page could not be served")


def take(address, chromium, path, out):
    """Draw, ask and complete in a browser, and take a picture of each tab."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=window(DRAWN))
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        press(page, "Draw")
        page.get_by_role("button", name="Download what is shown").wait_for()
        save(page, DRAWN, out / "explore.png")
        page.set_viewport_size(window(ASKED))
        page.get_by_role("tab", name="Ask about a slice").click()
        page.locator("input[type=file]").set_input_files(path)
        press(page, "Ask")
        page.get_by_role("button", name="Download what is shown").wait_for()
        page.get_by_text("lower half", exact=True).click()
        press(page, "Complete")
        page.get_by_role("button", name="Download what is shown").nth(1).wait_for()
        save(page, ASKED, out / "explore_slice.png")
        browser.close()


def press(page, name):
    """Press a button when the page is at rest."""
    page.wait_for_function("document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'")
    page.get_by_role("button", name=name, exact=True).click()


def window(size):
    """A window of this width and height, as Playwright wants to have it."""
    return dict(zip(("width", "height"), size, strict=True))


def save(page, size, path):
    """Write what a window of this width and height shows, in COLOURS colours."""
    page.wait_for_timeout(5000)  # letters and pictures come after the page
    shown = page.screenshot(clip={"x": 0, "y": EMPTY, "width": size[0], "height": size[1] - EMPTY})
    picture = Image.open(io.BytesIO(shown)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    with whole_file(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


if __name__ == "__main__":
    run_script(main)
