"""Measure what a change to a gallery costs, in images embedded and in seconds.

    python benchmarks/changes.py                    10,000 images and the bundled model
    python benchmarks/changes.py --pictures 500

Each row is one call of `index_builder.py`, including its start. *Exact scan* is when the new snapshot is published and
readers search in it, *ChromaDB* when its collections are complete and the call ends. t-SNE maps are left out.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pictures import jpegs
from report import report

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = 20
AGE = 100  # seconds; the builder does not trust the time of a file that has just changed
POLL = 0.02  # seconds


def main() -> None:
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000, metavar="N")
    count = parser.parse_args().pictures
    with tempfile.TemporaryDirectory() as temporary:
        gallery = _Gallery(Path(temporary))
        *first, extra, late = jpegs(count + 2)
        gallery.add(first)
        one, moved = gallery.folder / "00" / "00000.jpg", gallery.folder / "01" / "moved.jpg"
        changes: list[tuple[str, Callable[[], object], list[str]]] = [
            ("nothing", lambda: None, []),
            ("an image added", lambda: gallery.write("00/extra.jpg", extra), []),
            ("an image touched", lambda: os.utime(one, ns=(0, time.time_ns() - AGE * 10**9)), []),
            ("an image renamed", lambda: one.rename(one.with_name("renamed.jpg")), []),
            ("an image moved to another class", lambda: one.with_name("renamed.jpg").rename(moved), []),
            ("a text file added", lambda: (gallery.folder / "notes.txt").write_text("notes"), []),
            ("a second gallery", lambda: None, ["--gallery", "second"]),
        ]
        rows = [gallery.build("a first build", [])]
        for name, change, flags in changes:
            change()
            rows.append(gallery.build(name, flags))
        part = _Gallery(Path(temporary), "part", gallery.folder / "00")
        part.interrupt(count // FOLDERS // 2)
        part.write("late.jpg", late)
        rows.append(part.build("stopped halfway, an image added", []))
    whole = rows[0]["ChromaDB, s"]
    for row in rows:
        row["share of a first build"] = row["ChromaDB, s"] / whole  # type: ignore[operator]
    report("What a change costs", rows, pictures=count, model="bundled")


class _Gallery:
    """A folder of images and its index."""

    def __init__(self, folder: Path, index: str = "index", pictures: Path | None = None) -> None:
        self.folder = pictures or folder / "pictures"
        self._index = folder / index

    def add(self, jpegs: list[bytes]) -> None:
        for number, jpeg in enumerate(jpegs):
            self.write(f"{number % FOLDERS:02}/{number // FOLDERS:05}.jpg", jpeg)

    def write(self, name: str, jpeg: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg)
        os.utime(path, ns=(0, time.time_ns() - AGE * 10**9))

    def build(self, name: str, flags: list[str]) -> dict[str, object]:
        """Run the builder, and return what it embedded and how long it took."""
        manifest = self._index / (flags[1] if flags else self.folder.name) / "manifest.json"
        before = _time_of(manifest)
        started = time.perf_counter()
        with self._start(flags) as process:
            published = None
            while process.poll() is None:
                if published is None and _time_of(manifest) != before:
                    published = time.perf_counter() - started
                time.sleep(POLL)
            ended = time.perf_counter() - started
            assert process.stdout
            result = json.loads(process.stdout.read())
        return {
            "change": name,
            "images": result["pictures"],
            "embedded": result["embedded"],
            "exact scan, s": published or ended,
            "ChromaDB, s": ended,
        }

    def interrupt(self, count: int) -> None:
        """Stop the builder as Ctrl-C does, once it has embedded so many images."""
        with self._start([], stderr=subprocess.PIPE) as process:
            assert process.stderr
            for shown in process.stderr:  # the progress bar
                if (done := re.search(r"(\d+)/\d+ \[", shown)) and int(done[1]) >= count:
                    break
            process.send_signal(signal.SIGINT)
            process.communicate()

    def _start(self, flags: list[str], stderr: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
        command = [sys.executable, str(ROOT / "index_builder.py"), "--index", str(self._index), "--map", "pca"]
        return subprocess.Popen(
            [*command, "--dataset", str(self.folder), "--model", "mini", "--json", *flags],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )


def _time_of(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


if __name__ == "__main__":
    main()
