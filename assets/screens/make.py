"""Take the pictures for the README in the real app: screenshots of each tab, and an animation.

python assets/screens/make.py            all: each tab in light mode, dark mode, phone width and full width; tour.webp
python assets/screens/make.py search     those of one tab
python assets/screens/make.py tour       the animation: a query, lanes, why, compare

Needs Chromium and requirements-dev.txt.
"""

import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PATIENCE = 120_000  # ms
LOOKS = {
    "light": ("light", 1366, 768),
    "dark": ("dark", 1366, 768),
    "phone": ("light", 390, 844),
    "wide": ("light", 1920, 1080),
}
# Images outside the window are loaded only on scrolling, and hidden ones not at all.
LOADED = """[...document.images].every(each => {
    const { top, left, width } = each.getBoundingClientRect();
    return each.complete || !width || top > innerHeight || left > innerWidth;
})"""


def _results(page: Page) -> None:
    expect(page.locator("#results .lane .hit")).to_have_count(16)


def _lanes(page: Page) -> None:
    page.locator("#features input[name=color]").check()
    expect(page.locator("#results .lane .hit")).to_have_count(24)


def _compared(page: Page) -> None:
    expect(page.locator(".hits .caption-label").last).to_be_visible()


def _robust(page: Page) -> None:
    page.locator("#sweep").click()
    expect(page.locator("#sweep_plot img")).to_be_visible()


def _mapped(page: Page) -> None:
    expect(page.locator("#map_note")).to_contain_text("t-SNE keeps neighbours")
    expect(page.locator("#map_note")).to_contain_text("◆")


def _evaluated(page: Page) -> None:
    page.locator("#evaluate").click()
    page.locator("#figures_plot img").evaluate("image => image.scrollIntoView()")  # loaded only then
    expect(page.locator("#figures_plot img")).to_be_visible()


def _listed(page: Page) -> None:
    expect(page.locator("#galleries").get_by_role("gridcell", name="photos", exact=True)).to_be_visible()


# Name of the screenshot -> its tab, and what to do there before taking it.
STATES: dict[str, tuple[str, Callable[[Page], None]]] = {
    "search": ("Search", _results),
    "lanes": ("Search", _lanes),
    "compare": ("Compare", _compared),
    "robustness": ("Robustness", _robust),
    "map": ("Map", _mapped),
    "evaluate": ("Evaluate", _evaluated),
    "galleries": ("Galleries", _listed),
}


def main(wanted: list[str]) -> None:
    """Start the app on a free port, take the pictures, and stop it."""
    expect.set_options(timeout=PATIENCE)
    with _app() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for name in wanted or [*STATES, "tour"]:
            if name == "tour":
                print(_tour(browser, address))
            else:
                for look in LOOKS:
                    print(_take(browser, address, name, look))
        browser.close()


@contextmanager
def _app() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--index", folder, "--model", "mini"]
        subprocess.run([sys.executable, "index_builder.py", *flags], cwd=ROOT, check=True)  # with t-SNE maps
        command = [sys.executable, "app.py", *flags]
        app = subprocess.Popen(
            [*command, "--host", "127.0.0.1"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert app.stdout
            lines = iter(app.stdout.readline, "")
            yield next(
                found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+/\?token=[\w-]+", line))
            )
        finally:
            app.terminate()
            app.wait()


def _tour(browser: Browser, address: str) -> Path:
    """Record the stations of a visit, each for as long as a reader needs."""
    page = browser.new_page(viewport={"width": 1500, "height": 800})
    page.set_default_timeout(PATIENCE)
    frames: list[tuple[Image.Image, int]] = []

    def show(seconds: float) -> None:
        expect(page.locator(".pending, .generating")).to_have_count(0)
        page.wait_for_function(LOADED)
        with Image.open(io.BytesIO(page.screenshot())) as shot:
            frames.append((shot.convert("RGB"), int(seconds * 1000)))

    page.goto(f"{address}&__theme=light")
    _results(page)
    show(3)  # the query and two lanes
    page.locator("#features input[name=color]").check()
    expect(page.locator("#results .lane .hit")).to_have_count(24)
    show(3)  # a third lane
    page.locator("#results .lane[data-features=clip] .hit").first.click()
    page.locator("#viewer dialog .why button[data-features=clip]").click()
    expect(page.locator("#viewer dialog .pair.explained img")).to_have_count(2)
    show(4)  # why this is a result
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Compare").click()
    _compared(page)
    page.mouse.move(0, 0)
    show(4)  # every combination
    page.close()
    path, images, durations = HERE / "tour.webp", [each for each, _ in frames], [each for _, each in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, quality=80, method=6)
    return path


def _take(browser: Browser, address: str, name: str, look: str) -> Path:
    theme, width, height = LOOKS[look]
    tab, prepare = STATES[name]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}&__theme={theme}")
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
