"""A builder that is killed, at every stage and at random moments, ends like an undisturbed one and leaves nothing."""

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
def test_killed_at_every_stage_a_rebuild_ends_like_an_undisturbed_one(
    reference_build: SimpleNamespace, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    shutil.copytree(reference_build.index, index)
    builds = [search_published(index)]
    command = arguments(index, reference_build.dataset, "--rebuild")
    for stage, moment in STAGES.items():
        builder = Builder(reference_build.folder, *command, at=moment)
        assert builder.wait() == -signal.SIGKILL, f"never came to where {stage}: {builder.output}"
        builds.append(search_published(index))
        assert builds[-1], f"no index answers after {stage}"
        if builds[-1] != builds[-2]:  # published: what the next builder does first is to sweep
            assert Builder(reference_build.folder, *command[:-1]).wait() == 0
            assert_same(index, reference_build.snapshot)
    # The old build answered until its successor's manifest was renamed, which happened in each of the last four.
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
        ("data_level0.bin", signal.SIGINT),  # given back as it should be, and damaged later
    ],
)
def test_what_was_torn_of_chromadb_costs_no_picture(
    reference_build: SimpleNamespace, tmp_path: Path, torn: str, number: signal.Signals
) -> None:
    # ChromaDB writes these over the old ones: about one kill in ten of a builder that works hard tears one.
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


def killed_at_random(reference_build: SimpleNamespace, folder: Path, kills: int, apart: int) -> None:
    """Kill rebuilds at random moments, one in each part of the time that an undisturbed one takes.

    Args:
        undisturbed: the fixture.
        folder: for indexes.
        kills: how many.
        apart: every so manieth writes in a process of its own.
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
    assert killed, "all of them ended before they were killed"


@pytest.mark.parametrize(("kills", "apart"), [pytest.param(6, 3, marks=pytest.mark.short), (20, 5), (60, 2)])
def test_killed_at_random_moments_a_rebuild_ends_like_an_undisturbed_one(
    reference_build: SimpleNamespace, tmp_path: Path, kills: int, apart: int
) -> None:
    killed_at_random(reference_build, tmp_path, kills, apart)
