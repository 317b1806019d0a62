"""A builder killed at any stage or moment can resume, gives the same index, and leaves no files behind."""

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.builds import NAME, arguments, assert_same, search_published
from tests.support.stages import STAGES
from tests.support.warm import Builder, Moment

pytestmark = pytest.mark.endurance


@pytest.mark.short
def test_rebuild_killed_at_each_stage_ends_like_an_uninterrupted_one(
    reference_build: SimpleNamespace, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    shutil.copytree(reference_build.index, index)
    builds = [search_published(index)]
    command = arguments(index, reference_build.dataset, "--rebuild")
    for stage, moment in STAGES.items():
        builder = Builder(reference_build.folder, *command, at=moment)
        assert builder.wait() == -signal.SIGKILL, f"never reached: {stage}: {builder.output}"
        builds.append(search_published(index))
        assert builds[-1], f"no index can be searched after: {stage}"
        if builds[-1] != builds[-2]:  # published: the next builder starts by deleting old builds
            assert Builder(reference_build.folder, *command[:-1]).wait() == 0
            assert_same(index, reference_build.snapshot)
    # Searches used the old build until the new manifest was renamed, which happened in each of the last four stages.
    assert len(set(builds)) == 1 + 4
    assert builds[0] == builds[len(STAGES) - 4]
    assert Builder(reference_build.folder, *command).wait() == 0
    assert_same(index, reference_build.snapshot)


@pytest.mark.short
@pytest.mark.parametrize(
    ("torn", "number"),
    [
        ("index_metadata.pickle", signal.SIGKILL),
        ("data_level0.bin", signal.SIGKILL),
        ("chroma.sqlite3", signal.SIGKILL),
        ("data_level0.bin", signal.SIGINT),  # closed properly, then damaged
    ],
)
def test_truncated_chromadb_files_are_rebuilt_without_losing_pictures(
    reference_build: SimpleNamespace, tmp_path: Path, torn: str, number: signal.Signals
) -> None:
    # ChromaDB overwrites these files in place: about one kill in ten during heavy writes leaves one incomplete.
    index = tmp_path / "index"
    command = arguments(index, reference_build.dataset)
    builder = Builder(reference_build.folder, *command, at=Moment("FolderStore.write", "return", 4), number=number)
    assert builder.wait() == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    (build,) = (index / NAME).glob("build-*")
    cut = [path for path in build.rglob(torn) if path.stat().st_size]
    assert cut
    for path in cut:
        os.truncate(path, path.stat().st_size // 2)
    again = Builder(reference_build.folder, *command)
    assert again.wait() == 0, again.output
    assert "Rebuilding ChromaDB's files" in again.output
    assert re.search(r"images indexed .* \(5 now, 14 before\)", again.output), again.output
    assert_same(index, reference_build.snapshot)


def kill_at_random_moments(reference_build: SimpleNamespace, folder: Path, kills: int, apart: int) -> None:
    """Kill rebuilds at random moments, spread evenly over the duration of an uninterrupted rebuild.

    Args:
        reference_build: The fixture.
        folder: Folder for the indexes.
        kills: Number of rebuilds to kill.
        apart: Every `apart`-th builder writes in a separate process.
    """
    seed = int(os.environ.get("KILLS_SEED", random.randrange(10**6)))
    print(f"KILLS_SEED={seed}")
    chance = random.Random(seed)
    killed = 0
    for number in range(kills):
        index = folder / str(number)
        shutil.copytree(reference_build.index, index)
        command = arguments(index, reference_build.dataset, "--rebuild")
        builder = Builder(reference_build.folder, *command, separate_writer=number % apart == 0)
        seconds = reference_build.seconds * (number + chance.random()) / kills
        builder.process.join(max(0, builder.began + seconds - time.monotonic()))
        builder.send(signal.SIGKILL)
        code = builder.wait()
        assert code in (0, -signal.SIGKILL), builder.output
        killed += code != 0
        assert search_published(index), f"killed after {seconds:.3f} s"
        again = Builder(reference_build.folder, *command, separate_writer=number % apart == 1 % apart)
        assert again.wait() == 0, again.output
        assert_same(index, reference_build.snapshot)
        shutil.rmtree(index)
    assert killed, "every builder ended before it was killed"


@pytest.mark.parametrize(("kills", "apart"), [pytest.param(6, 3, marks=pytest.mark.short), (20, 5), (60, 2)])
def test_rebuild_killed_at_random_moments_ends_like_an_uninterrupted_one(
    reference_build: SimpleNamespace, tmp_path: Path, kills: int, apart: int
) -> None:
    kill_at_random_moments(reference_build, tmp_path, kills, apart)
