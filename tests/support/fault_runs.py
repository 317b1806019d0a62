"""Run a command with a fault at each of its operations on files, and compare what readers see with undisturbed runs.

Everything runs in forks of a process that has loaded all it needs. Images are decoded in the builder's own process, and
small feature types and a small engine take the place of the model and of ChromaDB, so that a run takes a tenth of a
second.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from multiprocessing import Process
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import retrieval.indexing.embed
import retrieval.indexing.publish
from retrieval import index_builder
from retrieval.engines import ENGINES, chroma, chroma_fill
from retrieval.features import FEATURES
from retrieval.indexing.embeddings import EmbeddingStore
from retrieval.metrics import Metric
from retrieval.pictures.decoding import MAX_PIXELS, decode
from retrieval.storage.catalog import Indexes
from retrieval.storage.manifest import STORE
from retrieval.storage.vectors import ItemVectors
from tests.engines.signs import SignsEngine
from tests.features.average import AverageFeatures
from tests.support.builds import NAME, PER_RUN, arguments, draw, file_names
from tests.support.faults import POWER_CUT, Fault, FaultyDisk

FORKS = multiprocessing.get_context("fork")
LONG_AGO = 1_600_000_000  # seconds; files that are new at a build are read again by the next one

Step = Callable[[Path], int]
State = Mapping[str, Any]


def build(folder: Path) -> int:
    return index_builder.main(arguments(folder / "index", folder / NAME))


def build_chroma(folder: Path) -> int:
    """Build, with ChromaDB in the same process, whose operations are counted."""
    chroma.run_in_process = lambda function, given, check: function(*given)  # type: ignore[assignment]
    chroma_fill.MOST_CHANGED = 10  # so that a few images are updated, too
    return build(folder)


def publish(folder: Path) -> int:
    """Build a second gallery of the same images, for which nothing has to be embedded."""
    return index_builder.main([*arguments(folder / "index", folder / NAME), "--gallery", "second"])


def prune(folder: Path) -> int:
    return index_builder.main(["--index", str(folder / "index"), "--prune"])


def change(folder: Path) -> int:
    """Add two pictures, change one and delete one."""
    pictures = draw(folder / "more", 8)
    for number in (1, 6, 7):
        (pictures / f"{number - (number == 1):03}.png").replace(folder / NAME / f"{number:03}.png")
    (folder / NAME / "002.png").unlink()
    return age(folder)


def age(folder: Path) -> int:
    for path in (folder / NAME).iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    return 0


def drop_engines(folder: Path) -> int:
    for snapshot in (folder / "index").glob("*/snapshot-*"):
        for engine in ENGINES.values():
            engine.drop(snapshot)
    return 0


@dataclass(frozen=True)
class Work:
    """A command, and what is done before it."""

    command: Step
    before: tuple[Step, ...] = ()
    engine: str = "signs"  # besides the exact scan


WORKS = {
    "build": Work(build),
    "update": Work(build, (build, change)),
    "publish": Work(publish, (build,)),
    "prune": Work(prune, (build, change, build)),
    "ChromaDB": Work(build_chroma, (build, drop_engines), "chroma"),
    "ChromaDB's update": Work(build_chroma, (build, change), "chroma"),
}


def prepare(work: Work) -> None:
    """Register small feature types and one engine in this process."""
    del FEATURES["clip"]
    FEATURES["average"] = AverageFeatures()
    if work.engine == "signs":
        del ENGINES["chroma"]
        ENGINES["signs"] = SignsEngine()
    retrieval.indexing.publish.BACKGROUND_PAIRS = 16
    retrieval.indexing.embed.load_picture = lambda content: decode(content, MAX_PIXELS)  # type: ignore[assignment]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def seen_by_readers(index: Path) -> dict[str, Any]:
    """Everything that readers see of the published galleries, without the engines."""
    indexes, found = Indexes(index), dict[str, Any]()
    for name in indexes.names():
        gallery = indexes.get(name)
        items = pq.read_table(gallery.snapshot / "items.parquet").to_pylist()
        found[name] = {
            "manifest": repr({key: value for key, value in asdict(gallery.manifest).items() if key not in PER_RUN}),
            "items": digest(repr(items).encode()),
            "thumbnails": [digest(gallery.thumbnail(i).read_bytes()) for i in range(len(gallery))],
            "vectors": {each: digest(gallery.vectors(each).tobytes()) for each in gallery.features},
            "maps": {"-".join(each): digest(gallery.map(*each).coordinates.tobytes()) for each in gallery.maps},
        }
    indexes.close()
    return found


def state_of(index: Path) -> dict[str, Any]:
    """Everything that an index holds: also the store, the names of files, and what the engines find."""
    indexes, engines, names = Indexes(index), dict[str, Any](), set[str]()
    for name in indexes.names():
        gallery = indexes.get(name)
        names |= {each for each in file_names(index, gallery.snapshot.name) if each.startswith(name)}
        for engine in ENGINES:
            ENGINES[engine].probe(ItemVectors.of(gallery.snapshot, gallery.manifest), gallery.snapshot)
            for features in gallery.features:
                vectors = gallery.vectors(features)
                found = gallery.engine(engine).candidates(features, Metric.L2, vectors, 3)
                engines[f"{name} {engine} {features}"] = [sorted(each.positions.tolist()) for each in found]
    indexes.close()
    store = EmbeddingStore(index)
    parts = {
        parts.folder.name: [row for _, part in parts.read() for row in part.to_pylist()] for parts in store.all_parts()
    }
    return {
        "galleries": seen_by_readers(index),
        "engines": engines,
        "names": sorted(names),
        "store": {name: sorted({repr(row) for row in rows}) for name, rows in parts.items()},
    }


def store_files(index: Path) -> list[str]:
    """The names of the files in the store, without the parts, whose names tell when they were written."""
    paths = (path for path in (index / STORE).rglob("*") if path.suffix != ".parquet" and path.is_file())
    return sorted(path.relative_to(index).as_posix() for path in paths)


class Runs:
    """The runs of one command in a folder."""

    def __init__(self, folder: Path, work: Work) -> None:
        """Run the command undisturbed."""
        self.folder, self._work = folder, work
        self.index, self._start, self._aside = folder / "index", folder / "start", folder / "aside"
        self.output, self._result = folder / "output", folder / "result.json"
        prepare(work)
        draw(folder / NAME, 6)
        age(folder)
        for step in work.before:
            assert self.fork(lambda step=step: step(folder)) == 0, self.output.read_text()
        self._aside.mkdir()
        self.index.mkdir(exist_ok=True)
        shutil.copytree(self.index, self._start)
        self._before = self._report(lambda: seen_by_readers(self.index))
        self.counts: dict[str, int] = self._report(self._counted)
        self._after = self._report(lambda: state_of(self.index))
        self._pruned = self._report(self._prune)

    def start(self, run: Callable[[], int], output: Path | None = None) -> Process:
        """Start a function in a fork."""

        def redirected() -> None:
            with (output or self.output).open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.exit(run())

        process = FORKS.Process(target=redirected)
        process.start()
        return process

    def fork(self, run: Callable[[], int]) -> int:
        """Run a function in a fork; return its exit code."""
        process = self.start(run)
        process.join()
        return process.exitcode or 0

    def _report(self, find: Callable[[], Any]) -> Any:
        """Return what a function finds in a fork, as JSON."""

        def run() -> int:
            self._result.write_text(json.dumps(find()))
            return 0

        assert self.fork(run) == 0, self.output.read_text()
        return json.loads(self._result.read_text())

    def _counted(self) -> dict[str, int]:
        disk = FaultyDisk(self.index, self._aside)
        assert self._work.command(self.folder) == 0
        return dict(disk.counts)

    def _prune(self) -> list[str]:
        assert prune(self.folder) == 0
        return store_files(self.index)

    def restore(self) -> None:
        """Bring the index back to the state before the command."""
        for folder in (self.index, self._aside):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._start, self.index)
        self._aside.mkdir()

    def problem(self, fault: Fault, at: int) -> str:
        """Run the command with a fault and then again; return what is wrong, or an empty text."""
        self.restore()

        def disturbed() -> int:
            disk = FaultyDisk(self.index, self._aside, fault, at)
            code = self._work.command(self.folder)
            print(f"{fault} at {disk.reached or 'no operation'}")
            return code

        code = self.fork(disturbed)
        said = self.output.read_text()
        expected = (0, 2) if fault is Fault.ERROR else (POWER_CUT,)
        if code not in expected or "Traceback" in said or f"{fault} at no operation" in said:
            return f"exit code {code}: {said}"
        wrong = self.recovered()
        return wrong and f"{said}{wrong}"

    def recovered(self) -> str:
        """Check what readers see now, and run the command again; return what is wrong."""
        checks = (self.seen, self._repeated, self._state)
        for check in checks:
            if self.fork(lambda check=check: check()):
                return f"{check.__name__}: {self.output.read_text()}"
        return ""

    def seen(self) -> int:
        """Check that readers see either the state before the command or the state after it, of each gallery."""
        seen, before, after = seen_by_readers(self.index), self._before, self._after["galleries"]
        assert before.keys() <= seen.keys(), "a gallery is missing"
        for name, found in seen.items():
            maps = found["maps"].items()  # of which some may be missing yet
            whole = [each | {"maps": found["maps"]} for each in (before.get(name), after[name]) if each]
            assert found in whole, f"{name}: {found}"
            assert maps <= after[name]["maps"].items() or maps <= before[name]["maps"].items(), maps
        return 0

    def _repeated(self) -> int:
        return self._work.command(self.folder)

    def _state(self) -> int:
        found = state_of(self.index)
        for key, expected in self._after.items():
            assert json.loads(json.dumps(found[key])) == expected, key
        files = self._prune()
        assert files == self._pruned, {*files} ^ {*self._pruned}
        return 0
