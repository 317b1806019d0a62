"""Damaged files of a finished index: the right result, or an error that names the command to rebuild."""

import json
import random
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from retrieval import app, cli
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from tests.support.builds import draw_classes
from tests.support.warm import Builder

pytestmark = pytest.mark.endurance

NAME = "pictures"

DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "noise in the middle": lambda content: _with_noise(content, [len(content) // 2 + i for i in range(-32, 32)]),
    "noise all over": lambda content: _with_noise(content, range(0, len(content), 97)),
    "gone": lambda content: None,
}

FEW = ("cut", "noise in the middle", "gone")

# Patterns; only the first file by name is damaged.
FILES = (
    "manifest.json",
    "snapshot-*/items.parquet",
    "snapshot-*/pixels.npy",
    "snapshot-*/clip.npy",
    "snapshot-*/map-clip-pca.npz",
    "snapshot-*/thumbnails/*/*.jpg",
    "snapshot-*/chroma/chroma.sqlite3",
    "snapshot-*/chroma/digests.json",
    *(
        f"snapshot-*/chroma/*/{name}"
        for name in ("data_level0.bin", "header.bin", "length.bin", "link_lists.bin", "index_metadata.pickle")
    ),
)
# One file for each way of reading; the others, and more kinds of damage, take minutes.
QUICK = (FILES[0], FILES[2], FILES[5], FILES[6], FILES[8])


def _with_noise(content: bytes, places: Any) -> bytes:
    changed = bytearray(content)
    chance = random.Random(0)
    for place in places:
        if 0 <= place < len(content):
            changed[place] ^= chance.randrange(1, 256)
    return bytes(changed)


def start(arguments: list[str]) -> int:
    """Start the app up to the point before it serves, and warm up its searcher."""
    from retrieval import settings
    from retrieval.errors import RetrievalError

    chosen = settings.parse(app.parser(), arguments, {})[1]
    try:
        app.ready(chosen)
        searcher = Searcher(Indexes(chosen.index))
        try:
            searcher.warm()
        finally:
            searcher.indexes.close()
    except RetrievalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def commands(index: Path, picture: Path, plot: Path, few: bool) -> list[tuple[Callable[[list[str]], int], list[str]]]:
    search = ["search", str(picture), "--json", "--top-k", "40"]
    given = [
        [*search, "--features", "pixels", "--metric", "correlation", "--engine", "chroma"],
        [*search, "--features", "clip", "--engine", "chroma", "--label", "even"],
        [*search, "--features", "pixels", "--metric", "l1"],
        ["map"],
    ]
    if not few:
        given += [
            [*search, "--features", "clip"],
            [*search, "--features", "pixels", "--plot", str(plot)],
            ["evaluate", "--json"],
            ["evaluate", "--json", "--engine", "chroma"],
            ["info", "--json"],
        ]
    again = ["--index", str(index), "--dataset", str(picture.parents[1]), "--model", "mini"]
    return [(start, again), *((cli.main, [*each, "--index", str(index)]) for each in given)]


def without_times(values: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what differs between runs, or between two builds of the same gallery."""
    return {key: value for key, value in values.items() if key not in ("timings_ms", "created", "changes")}


def outputs(index: Path, picture: Path, plot: Path, few: bool) -> list[tuple[str, int, str, str]]:
    """Run every command; return its name, exit code, output without times, and errors."""
    found = []
    for program, arguments in commands(index, picture, plot, few):
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = program(arguments)  # an exception fails the test
        # The app may build what is missing; that output does not matter.
        text = "" if program is start and code == 0 else out.getvalue()
        if "--json" in arguments and code == 0:
            text = json.dumps(json.loads(text, object_hook=without_times))
        found.append((" ".join(arguments), code, text, err.getvalue()))
    return found


def damage_and_check(arguments: list[str]) -> int:
    """Damage a file in every way, and run all commands each time; in its own process, because it may crash."""
    index, pattern, picture, plot = (Path(each) for each in arguments[:4])
    few = arguments[4] == "few"
    file = min((index / NAME).glob(str(pattern)))
    content = file.read_bytes()
    right = [text for _, _, text, _ in outputs(index, picture, plot, few)]
    wrong = 0
    for damage, damage_content in DAMAGES.items():
        if few and damage not in FEW:
            continue
        damaged = damage_content(content)
        whole = index.with_name("whole")
        shutil.copytree(index, whole)  # because ChromaDB may repair its files or create new ones
        if damaged is None:
            file.unlink()
        else:
            file.write_bytes(damaged)
        for (command, code, text, err), expected in zip(outputs(index, picture, plot, few), right, strict=True):
            good = code == 0 and text == expected
            reported = (code == 2 and "--rebuild" in err) or "index_builder.py" in err + text
            if not (good or reported) or "Traceback" in err:
                wrong += 1
                print(f"{pattern} {damage}: {command}: {code}\n{text[:300]}\n{err[-1500:]}")
        shutil.rmtree(index)
        whole.rename(index)
    return wrong


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A labelled gallery, and its index with ChromaDB's graphs."""
    folder = tmp_path_factory.mktemp("built")
    dataset = draw_classes(folder / NAME, 24)
    arguments = ["--index", str(folder / "index"), "--dataset", str(dataset), "--model", "mini"]
    builder = Builder(folder, *arguments)
    assert builder.wait() == 0, builder.output
    return SimpleNamespace(folder=folder, index=folder / "index", picture=dataset / "odd" / "011.png")


@pytest.mark.parametrize(
    ("pattern", "extent"),
    [
        *(pytest.param(pattern, "few", marks=pytest.mark.short) for pattern in QUICK),
        *((pattern, "few") for pattern in FILES if pattern not in QUICK),
        *((pattern, "all") for pattern in FILES),
    ],
)
def test_damaged_file_is_reported_or_harmless(
    built: SimpleNamespace, tmp_path: Path, pattern: str, extent: str
) -> None:
    shutil.copytree(built.index, tmp_path / "index")
    given = [str(each) for each in (tmp_path / "index", pattern, built.picture, tmp_path / "plot.png", extent)]
    process = Builder(built.folder, *given, program=damage_and_check)
    assert process.wait() == 0, process.output
