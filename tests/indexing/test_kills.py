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

from tests.support.builds import NAME, answers, arguments, assert_same
from tests.support.stages import STAGES
from tests.support.warm import Builder, Moment

pytestmark = pytest.mark.endurance


@pytest.mark.short
def test_killed_at_every_stage_a_rebuild_ends_like_an_undisturbed_one(
    undisturbed: SimpleNamespace, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    shutil.copytree(undisturbed.index, index)
    builds = [answers(index)]
    command = arguments(index, undisturbed.dataset, "--rebuild")
    for stage, moment in STAGES.items():
        builder = Builder(undisturbed.folder, *command, at=moment)
        assert builder.end() == -signal.SIGKILL, f"never came to where {stage}: {builder.said}"
        builds.append(answers(index))
        assert builds[-1], f"no index answers after {stage}"
        if builds[-1] != builds[-2]:  # published: what the next builder does first is to sweep
            assert Builder(undisturbed.folder, *command[:-1]).end() == 0
            assert_same(index, undisturbed.whole)
    # The old build answered until its successor's manifest was renamed, which happened in each of the last four.
    assert len(set(builds)) == 1 + 4
    assert builds[0] == builds[len(STAGES) - 4]
    assert Builder(undisturbed.folder, *command).end() == 0
    assert_same(index, undisturbed.whole)


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
    undisturbed: SimpleNamespace, tmp_path: Path, torn: str, number: signal.Signals
) -> None:
    # ChromaDB writes these over the old ones: about one kill in ten of a builder that works hard tears one.
    index = tmp_path / "index"
    command = arguments(index, undisturbed.dataset)
    builder = Builder(undisturbed.folder, *command, at=Moment("FolderStore.write", "return", 4), number=number)
    assert builder.end() == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    (build,) = (index / NAME).glob("build-*")
    cut = [path for path in build.rglob(torn) if path.stat().st_size]
    assert cut
    for path in cut:
        os.truncate(path, path.stat().st_size // 2)
    again = Builder(undisturbed.folder, *command)
    assert again.end() == 0, again.said
    assert "Rebuilding ChromaDB's files" in again.said
    assert re.search(r"images indexed .* \(5 now, 14 before\)", again.said), again.said
    assert_same(index, undisturbed.whole)


def killed_at_random(undisturbed: SimpleNamespace, folder: Path, kills: int, apart: int) -> None:
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
        shutil.copytree(undisturbed.index, index)
        command = arguments(index, undisturbed.dataset, "--rebuild")
        builder = Builder(undisturbed.folder, *command, apart=number % apart == 0)
        seconds = undisturbed.seconds * (number + chance.random()) / kills
        builder.process.join(max(0, builder.began + seconds - time.monotonic()))
        builder.send(signal.SIGKILL)
        code = builder.end()
        assert code in (0, -signal.SIGKILL), builder.said
        killed += code != 0
        assert answers(index), f"killed after {seconds:.3f} s"
        again = Builder(undisturbed.folder, *command, apart=number % apart == 1 % apart)
        assert again.end() == 0, again.said
        assert_same(index, undisturbed.whole)
        shutil.rmtree(index)
    assert killed, "all of them ended before they were killed"


@pytest.mark.parametrize(("kills", "apart"), [pytest.param(6, 3, marks=pytest.mark.short), (20, 5), (60, 2)])
def test_killed_at_random_moments_a_rebuild_ends_like_an_undisturbed_one(
    undisturbed: SimpleNamespace, tmp_path: Path, kills: int, apart: int
) -> None:
    killed_at_random(undisturbed, tmp_path, kills, apart)
