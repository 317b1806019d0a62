"""Take the pictures of the page that README shows: light, dark and phone width, of the real app on the bundled data.

python assets/screens/make.py        needs Chromium and requirements-dev.txt
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PATIENCE = 120_000  # ms
SHOTS = (
    ("search-clip", "light", (1280, 1130), "clip", "Search"),
    ("search-pixels", "light", (1280, 1130), "pixels", "Search"),
    ("search-dark", "dark", (1280, 1130), "clip", "Search"),
    ("search-phone", "light", (390, 1600), "clip", "Search"),
    ("compare", "light", (1280, 1660), "clip", "Compare"),
    ("evaluate", "light", (1280, 1130), "clip", "Evaluate"),
)
# Pictures outside the window are loaded when one scrolls there.
LOADED = """[...document.images].every(each => {
    const { top, left } = each.getBoundingClientRect();
    return each.complete || top > innerHeight || left > innerWidth;
})"""


def main() -> None:
    """Start the app on a free port, photograph it, stop it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "app.py", "--index", folder, "--model", "mini", "--host", "127.0.0.1"]
        app = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert app.stdout
            lines = iter(app.stdout.readline, "")
            address = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
                for shot in SHOTS:
                    _take(browser, address, *shot)
                browser.close()
        finally:
            app.terminate()
            app.wait()


def _take(
    browser: Browser, address: str, name: str, theme: str, size: tuple[int, int], features: str, tab: str
) -> None:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}/?__theme={theme}")
    page.locator("#query input[type=file]").set_input_files(str(ROOT / "assets/gallery/queries/cat.png"))
    expect(page.locator("#results .caption-label").first).to_be_visible(timeout=PATIENCE)
    page.locator(f"#features input[value={features}]").check()
    expect(page.locator("#timings")).to_contain_text("mini" if features == "clip" else "no model")
    page.get_by_role("tab", name=tab).click()
    if tab == "Compare":
        expect(page.locator(".hits .caption-label").last).to_be_visible(timeout=PATIENCE)
    elif tab == "Evaluate":
        page.locator("#evaluate").click()
        expect(page.locator("#figures_plot img")).to_be_visible(timeout=PATIENCE)
    page.mouse.move(0, 0)
    page.evaluate("window.scrollTo({ top: 0, behavior: 'instant' })")
    page.wait_for_function(LOADED)
    page.screenshot(path=HERE / f"{name}.png")
    page.close()
    print(HERE / f"{name}.png")


if __name__ == "__main__":
    main()
