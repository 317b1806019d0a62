"""Whatever a disk does to a file of a finished index: the right answer, or a message with the command that rebuilds."""

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

import app
from retrieval import cli
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
    "noise in the middle": lambda content: _noisy(content, [len(content) // 2 + i for i in range(-32, 32)]),
    "noise all over": lambda content: _noisy(content, range(0, len(content), 97)),
    "gone": lambda content: None,
}

FEW = ("cut", "noise in the middle", "gone")

# Of several files of a kind the first by name.
FILES = (
    "manifest.json",
    "build-*/items.parquet",
    "build-*/pixels.npy",
    "build-*/clip.npy",
    "build-*/checksums.json",
    "build-*/map-clip-pca.npz",
    "build-*/thumbnails/*/*.jpg",
    "build-*/chroma/chroma.sqlite3",
    *(
        f"build-*/chroma/*/{name}"
        for name in ("data_level0.bin", "header.bin", "length.bin", "link_lists.bin", "index_metadata.pickle")
    ),
)
# One of each kind that is read in a way of its own; the others, and more damages, take minutes.
QUICK = (FILES[0], FILES[2], FILES[6], FILES[7], FILES[8])


def _noisy(content: bytes, places: Any) -> bytes:
    changed = bytearray(content)
    chance = random.Random(0)
    for place in places:
        if 0 <= place < len(content):
            changed[place] ^= chance.randrange(1, 256)
    return bytes(changed)


def start(arguments: list[str]) -> int:
    """Start the app as far as it gets before it serves, and warm it."""
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


def outputs(index: Path, picture: Path, plot: Path, few: bool) -> list[tuple[str, int, str, str]]:
    """Run every command; return its name, exit code, what it printed without times, and what it complained of."""
    found = []
    for program, arguments in commands(index, picture, plot, few):
        said, complained = StringIO(), StringIO()
        with redirect_stdout(said), redirect_stderr(complained):
            code = program(arguments)  # what it raises is a failure of the test
        # The app builds what is not there; of that only the answers count.
        text = "" if program is start and code == 0 else said.getvalue()
        if "--json" in arguments and code == 0:
            answer = json.loads(text)
            text = json.dumps({key: value for key, value in answer.items() if key != "timings_ms"})
        found.append((" ".join(arguments), code, text, complained.getvalue()))
    return found


def visit(arguments: list[str]) -> int:
    """Damage a file in every way, and run every command each time; the body of a process that may be ended by it."""
    index, pattern, picture, plot = (Path(each) for each in arguments[:4])
    few = arguments[4] == "few"
    file = min((index / NAME).glob(str(pattern)))
    content = file.read_bytes()
    right = [text for _, _, text, _ in outputs(index, picture, plot, few)]
    wrong = 0
    for damage, spoil in DAMAGES.items():
        if few and damage not in FEW:
            continue
        spoilt = spoil(content)
        whole = index.with_name("whole")
        shutil.copytree(index, whole)  # since ChromaDB may mend its files, or make new ones
        if spoilt is None:
            file.unlink()
        else:
            file.write_bytes(spoilt)
        for (command, code, text, complained), expected in zip(outputs(index, picture, plot, few), right, strict=True):
            good = code == 0 and text == expected
            worded = (code == 2 and "--rebuild" in complained) or "index_builder.py" in complained + text
            if not (good or worded) or "Traceback" in complained:
                wrong += 1
                print(f"{pattern} {damage}: {command}: {code}\n{text[:300]}\n{complained[-1500:]}")
        shutil.rmtree(index)
        whole.rename(index)
    return wrong


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A labelled gallery and its index, of which ChromaDB has written graphs."""
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
def test_a_damaged_file_is_told_or_does_no_harm(
    built: SimpleNamespace, tmp_path: Path, pattern: str, extent: str
) -> None:
    shutil.copytree(built.index, tmp_path / "index")
    given = [str(each) for each in (tmp_path / "index", pattern, built.picture, tmp_path / "plot.png", extent)]
    visitor = Builder(built.folder, *given, program=visit)
    assert visitor.wait() == 0, visitor.output
