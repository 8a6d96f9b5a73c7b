"""Pictures and pages in a real browser: headless Chromium, driven by playwright."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DRAWINGS = sorted(path for path in ROOT.rglob("*.svg") if not {".venv", "build"} & set(path.parts))


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, the system's."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install -e '.[browser]'")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = driver.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.name)
def test_a_drawing_opens_without_an_error_and_nothing_sticks_out(path, browser):
    """Every text and shape lies inside of the picture, in the font that the browser has."""
    said = []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    outside = page.evaluate("""() => {
        const frame = document.documentElement.getBoundingClientRect();
        const sticksOut = element => {
            const box = element.getBoundingClientRect();
            return box.left < frame.left - 1 || box.right > frame.right + 1
                || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
        };
        const elements = [...document.querySelectorAll("text, rect, circle")];
        return elements.filter(sticksOut).map(element => element.outerHTML);
    }""")
    page.close()
    assert (said, outside) == ([], [])
