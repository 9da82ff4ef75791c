"""Take the pictures of docs/report.md again: `python docs/screenshots.py LAKE`, over a lake with two runs.

Needs the extras `dashboard` and `browser`, and Chromium (see `make test-browser`). Not part of the installed package.
"""

import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

import tracelake
from tracelake.collect.inputs.tokenizing.token_texts import token_texts
from tracelake.queries.dashboard.server import running
from tracelake.queries.report import write_report

IMAGES = Path(__file__).parent / "images"
CHROMIUM = os.environ.get("LAKE_TEST_CHROMIUM") or shutil.which("chromium")
WIDTH = 1360


def main(path: Path) -> None:
    """Pictures of a report and of the dashboard over the lake at `path`."""
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        report_pictures(browser, path, Path(folder))
        dashboard_pictures(browser, path)
        browser.close()
    for file in IMAGES.glob("*.png"):
        Image.open(file).convert("RGB").save(file, optimize=True)


def report_pictures(browser: Any, path: Path, folder: Path) -> None:
    """The head of a report, and the tokens of a sequence with one under the pointer."""
    for theme in ("light", "dark"):
        texts = partial(token_texts, "tinymath", None)
        write_report(tracelake.open(path), "latest", folder / f"{theme}.html", theme=theme, vocabulary=texts)
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        page.goto((folder / f"{theme}.html").as_uri())
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        page.wait_for_timeout(3000)
        if theme == "light":
            page.screenshot(path=IMAGES / "report.png")
            continue
        section = page.locator(".sequence").first
        page.evaluate("document.querySelector('.sequence').scrollIntoView({behavior: 'instant'})")
        section.locator(".token").nth(8).hover()
        page.screenshot(path=IMAGES / "report_sequence.png")


def dashboard_pictures(browser: Any, path: Path) -> None:
    """A run in the light look, two runs side by side in the dark one."""
    with running(path) as (address, _):
        for view, scheme, name in (("Run", "light", "dashboard_run"), ("Compare", "dark", "dashboard_compare")):
            page = browser.new_page(viewport={"width": WIDTH, "height": 1000}, color_scheme=scheme)
            page.goto(address)
            page.locator("[data-testid=stSidebar]").get_by_text(view, exact=True).last.click()
            page.wait_for_timeout(8000)
            page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
