"""A builder that is asked to stop ends soon and says so; of several builders on one index, one builds."""

import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.builds import arguments, assert_same, search_published
from tests.support.stages import STAGES
from tests.support.warm import Builder, Moment

pytestmark = [pytest.mark.endurance, pytest.mark.short]

ASKED = (
    "the gallery is claimed",
    "some vectors of some batches are written",
    "every batch is written",
    "one matrix is exported",
    "the manifest is about to be renamed",
    "the old build is half swept away",
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_at_any_stage_it_ends_in_words_and_can_be_gone_on_from(
    reference_build: SimpleNamespace,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    index = tmp_path / "index"
    shutil.copytree(reference_build.index, index)
    command = arguments(index, reference_build.dataset, "--rebuild")
    for stage in ASKED:
        builder = Builder(reference_build.folder, *command, at=STAGES[stage], number=number)
        assert builder.wait() == 130, f"where {stage}: {builder.output}"
        assert "Run the same command again" in builder.output
        assert "Traceback" not in builder.output
        assert search_published(index)
    assert Builder(reference_build.folder, *command[:-1]).wait() == 0
    assert_same(index, reference_build.snapshot)


def test_chromadb_gets_the_batch_too_that_was_kept_in_the_moment_of_a_stop(
    reference_build: SimpleNamespace, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    command = arguments(index, reference_build.dataset)
    kept = Moment("Batches.add", "return", 2)  # another one waits for ChromaDB then
    assert Builder(reference_build.folder, *command, at=kept, number=signal.SIGINT).wait() == 130
    assert Builder(reference_build.folder, *command).wait() == 0
    assert_same(index, reference_build.snapshot)


def test_of_three_builders_at_the_same_instant_one_builds(
    reference_build: SimpleNamespace,
    tmp_path: Path,
) -> None:
    index = tmp_path / "index"
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        shutil.copytree(reference_build.folder / "cache", folder / "cache")
    builders = [Builder(folder, *arguments(index, reference_build.dataset)) for folder in folders]
    codes = [builder.wait() for builder in builders]
    assert set(codes) <= {0, 2}
    assert 0 in codes
    for code, builder in zip(codes, builders, strict=True):
        # Who comes when the first is done finds nothing to do.
        said = "in use by another process" if code else "pictures"
        assert said in builder.output
        assert "Traceback" not in builder.output
    assert_same(index, reference_build.snapshot)
