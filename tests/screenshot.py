"""Takes the picture of a report for the README, in headless Chromium:

    python -m tests.screenshot REPORT.html OUT.webp

Of the example's report, every photo of which is rendered: no photo of anybody is in the project.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image

SIZE = 1200, 1350
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]


def chromium():
    """The path of the system's Chromium, or None."""
    return shutil.which("chromium") or shutil.which("google-chrome")


def take(browser, report, at="result"):
    """A picture of a report, from the section `at` on."""
    page = browser.new_page(viewport=dict(zip(("width", "height"), SIZE, strict=True)))
    page.goto(f"{report.resolve().as_uri()}#{at}")
    image = Image.open(io.BytesIO(page.screenshot()))
    page.close()
    return image.convert("RGB")


def run(report, out):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        take(browser, Path(report)).save(out, quality=80, method=6)
        browser.close()
    print(f"{out}: {Path(out).stat().st_size} bytes")


if __name__ == "__main__":
    run(*sys.argv[1:])
