"""Pictures and pages in a real browser: headless Chromium, driven by playwright."""

from pathlib import Path

import pytest

from tests import reports, screenshot

ROOT = Path(__file__).parent.parent
DRAWINGS = sorted(path for path in ROOT.rglob("*.svg") if not {".venv", "build"} & set(path.parts))


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


# The report


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of names that try to break out of the page, as a file."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    reports.make(path, count=80)
    return path


@pytest.fixture
def opened(browser, report):
    """opened(width, scheme) -> the report's page. In the end, it has said nothing and asked for nothing."""
    said = []
    pages = []

    def open_page(width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: request.url.startswith(("data:", report.as_uri()))
                or said.append(request.url))
        page.goto(report.as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert said == []


@pytest.mark.parametrize("width", [360, 800, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_fits_its_window_and_shows_every_photo(width, scheme, opened):
    page = opened(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    broken = page.evaluate("[...document.images].filter(image => !image.naturalWidth).length")
    paper, ink = page.evaluate("""() => {
        const style = getComputedStyle(document.body);
        return [style.backgroundColor, style.color].map(colour => +colour.match(/\\d+/)[0]);
    }""")
    assert broken == 0 and (paper > 200 > 60 > ink if scheme == "light" else paper < 60 < 200 < ink)


def test_a_cell_opens_its_photos_by_mouse_and_keyboard(opened):
    page = opened()

    def seen():
        return page.evaluate(
            "[...document.querySelectorAll('.panel')].filter(e => e.offsetHeight).map(e => e.id)")

    first, = seen()                                     # the most common confusion
    links = page.evaluate("[...document.querySelectorAll('svg.matrix a')].map(a => a.getAttribute('href'))")
    target = next(link for link in links if link != f"#{first}")
    page.locator(f"svg.matrix a[href='{target}']").click()
    assert seen() == [target[1:]]
    assert page.locator(f"svg.matrix a[href='{target}']").get_attribute("class") == "chosen"
    page.keyboard.press("Escape")
    assert seen() == [first]
    focused = "document.activeElement.getAttribute('href')"
    before = page.evaluate(focused)
    for key in ("ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
        if page.evaluate(focused) != before:
            break
    after = page.evaluate(focused)
    assert after != before and after in links
    page.keyboard.press("Enter")
    assert seen() == [after[1:]]


def test_a_report_works_without_its_script_and_on_paper(opened, browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    target = page.locator("svg.matrix a").last.get_attribute("href")
    page.goto(report.as_uri() + target)
    assert page.locator(".panel:visible").get_attribute("id") == target[1:]
    context.close()
    page = opened(width=700)
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden() and page.locator("#made").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 700


def test_the_readmes_picture_can_be_taken(browser, report):
    image = screenshot.take(browser, report)
    assert image.size == screenshot.SIZE and len(image.convert("L").histogram()) == 256
    assert image.convert("L").getextrema()[0] < 60 < 200 < image.convert("L").getextrema()[1]
