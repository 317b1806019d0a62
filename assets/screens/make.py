"""Take the screenshots for the README: each tab of the real app in light mode, dark mode and phone width.

python assets/screens/make.py            all screenshots
python assets/screens/make.py search     those of one tab

Needs Chromium and requirements-dev.txt.
"""

import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
QUERY = ROOT / "assets" / "photos" / "queries" / "chateau-de-chenonceau.jpg"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PATIENCE = 120_000  # ms
LOOKS = {"light": ("light", 1280, 1000), "dark": ("dark", 1280, 1000), "phone": ("light", 390, 844)}
# Images outside the window are loaded only on scrolling.
LOADED = """[...document.images].every(each => {
    const { top, left } = each.getBoundingClientRect();
    return each.complete || top > innerHeight || left > innerWidth;
})"""


def _results(page: Page) -> None:
    expect(page.locator("#results .caption-label")).to_have_count(12)


def _pixels(page: Page) -> None:
    page.locator("#features input[value=pixels]").check()
    expect(page.locator("#timings")).to_contain_text("no model")


def _compared(page: Page) -> None:
    expect(page.locator(".hits .caption-label").last).to_be_visible()


def _robust(page: Page) -> None:
    page.locator("#sweep").click()
    expect(page.locator("#sweep_plot img")).to_be_visible()


def _mapped(page: Page) -> None:
    page.locator("#map_method input[value=tsne]").check()
    expect(page.locator("#map_note")).to_contain_text("t-SNE")
    expect(page.locator("#map_note")).to_contain_text("◆")


def _evaluated(page: Page) -> None:
    page.locator("#evaluate").click()
    expect(page.locator("#figures_plot img")).to_be_visible()


def _listed(page: Page) -> None:
    expect(page.locator("#galleries").get_by_role("gridcell", name="photos", exact=True)).to_be_visible()


# Name of the screenshot -> its tab, and what to do there before taking it.
STATES: dict[str, tuple[str, Callable[[Page], None]]] = {
    "search": ("Search", _results),
    "pixels": ("Search", _pixels),
    "compare": ("Compare", _compared),
    "robustness": ("Robustness", _robust),
    "map": ("Map", _mapped),
    "evaluate": ("Evaluate", _evaluated),
    "galleries": ("Galleries", _listed),
}


def main(wanted: list[str]) -> None:
    """Start the app on a free port, take the screenshots, and stop it."""
    expect.set_options(timeout=PATIENCE)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "app.py", "--index", folder, "--model", "mini", "--map", "tsne"]
        app = subprocess.Popen(
            [*command, "--host", "127.0.0.1"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert app.stdout
            lines = iter(app.stdout.readline, "")
            address = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
                for name in wanted or STATES:
                    for look in LOOKS:
                        print(_take(browser, address, name, look))
                browser.close()
        finally:
            app.terminate()
            app.wait()


def _take(browser: Browser, address: str, name: str, look: str) -> Path:
    theme, width, height = LOOKS[look]
    tab, prepare = STATES[name]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}/?__theme={theme}")
    page.locator("#query input[type=file]").set_input_files(str(QUERY))
    _results(page)
    page.get_by_role("tab", name=tab).click()
    prepare(page)
    expect(page.locator(".pending, .generating")).to_have_count(0)
    page.mouse.move(0, 0)
    tall = page.evaluate("document.querySelector('main').scrollHeight")
    page.set_viewport_size({"width": width, "height": max(height, min(tall + 20, 3000))})
    page.evaluate("window.scrollTo({ top: 0, behavior: 'instant' })")
    page.wait_for_function(LOADED)
    path = HERE / f"{name}-{look}.webp"
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        shot.save(path, quality=82, method=6)
    page.close()
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
