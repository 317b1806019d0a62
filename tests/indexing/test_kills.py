"""A builder killed at any stage or moment can resume, gives the same index, and leaves no files behind."""

import os
import random
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.builds import arguments, assert_same, search_published
from tests.support.stages import PUBLISHED, STAGES
from tests.support.warm import Builder

pytestmark = pytest.mark.endurance


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
        if builds[-1] != builds[-2]:  # published: the next builder completes the snapshot
            assert Builder(reference_build.folder, *command[:-1]).wait() == 0
            assert_same(index, reference_build.snapshot)
    # Searches used the old snapshot until the new manifest was renamed, which happened in each of the last stages.
    assert len(set(builds)) == 1 + PUBLISHED
    assert builds[0] == builds[len(STAGES) - PUBLISHED]
    assert Builder(reference_build.folder, *command).wait() == 0
    assert_same(index, reference_build.snapshot)


def kill_at_random_moments(reference_build: SimpleNamespace, folder: Path, kills: int) -> None:
    """Kill rebuilds at random moments, spread evenly over the duration of an uninterrupted rebuild.

    Args:
        reference_build: The fixture.
        folder: Folder for the indexes.
        kills: Number of rebuilds to kill.
    """
    seed = int(os.environ.get("KILLS_SEED", random.randrange(10**6)))
    print(f"KILLS_SEED={seed}")
    chance = random.Random(seed)
    killed = 0
    for number in range(kills):
        index = folder / str(number)
        shutil.copytree(reference_build.index, index)
        command = arguments(index, reference_build.dataset, "--rebuild")
        builder = Builder(reference_build.folder, *command)
        seconds = reference_build.seconds * (number + chance.random()) / kills
        builder.process.join(max(0, builder.began + seconds - time.monotonic()))
        builder.send(signal.SIGKILL)
        code = builder.wait()
        assert code in (0, -signal.SIGKILL), builder.output
        killed += code != 0
        assert search_published(index), f"killed after {seconds:.3f} s"
        again = Builder(reference_build.folder, *command)
        assert again.wait() == 0, again.output
        assert_same(index, reference_build.snapshot)
        shutil.rmtree(index)
    assert killed, "every builder ended before it was killed"


@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.short), 20, 50])
def test_rebuild_killed_at_random_moments_ends_like_an_uninterrupted_one(
    reference_build: SimpleNamespace, tmp_path: Path, kills: int
) -> None:
    kill_at_random_moments(reference_build, tmp_path, kills)
