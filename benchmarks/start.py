"""How long the app takes to its first answer, without and with an index, and what a warm search costs.

    python benchmarks/start.py        prints JSON and a table; about two minutes on 2 cores

Both starts are processes of their own with an empty Hugging Face cache, asked through the HTTP API. A warm search is
the total the server reports, minus the model's forward, over every features x metric x engine.
"""

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gradio_client import Client, handle_file

ROOT = Path(__file__).resolve().parents[1]
QUERY = str(ROOT / "assets" / "gallery" / "queries" / "pizza.png")
ROUNDS = 5
COMBINATIONS = list(itertools.product(("pixels", "clip"), ("l1", "l2", "cosine", "correlation"), ("exact", "chroma")))


def main() -> None:
    """Measure and print."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first start, nothing cached", "start with the index"):
            figures[f"{name}, s to the first answer"], warm = _start(Path(folder))
        for engine in ("exact", "chroma"):
            figures[f"warm search by {engine}, ms median"] = statistics.median(warm[engine])
    print(json.dumps(figures, indent=1))
    print("\n| what | figure |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:.1f} |")


def _start(folder: Path) -> tuple[float, dict[str, list[float]]]:
    """Start the app, ask it once, then warm; return seconds to the first answer and milliseconds by engine."""
    environment = {**os.environ, "HF_HOME": str(folder / "cache")}
    command = [sys.executable, "app.py", "--host", "127.0.0.1", "--index", str(folder / "index")]
    started = time.perf_counter()
    app = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert app.stdout
        lines = iter(app.stdout.readline, "")
        address = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        client = Client(address, verbose=False)
        client.predict(handle_file(QUERY), api_name="/search")
        first = time.perf_counter() - started
        warm: dict[str, list[float]] = {"exact": [], "chroma": []}
        for _, (features, metric, engine) in itertools.product(range(ROUNDS), COMBINATIONS):
            answer = client.predict(handle_file(QUERY), features, metric, engine, 12, "", api_name="/search")
            warm[engine].append(answer["timings_ms"]["total"] - answer["timings_ms"]["features"])
        return first, warm
    finally:
        app.terminate()
        app.wait()


if __name__ == "__main__":
    main()
