"""An interrupted builder ends soon with a message; of several builders on one index, only one builds."""

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.builds import arguments, assert_same, search_published
from tests.support.stages import STAGES
from tests.support.warm import Builder, Moment

pytestmark = [pytest.mark.endurance, pytest.mark.short]

INTERRUPTED = (
    "the gallery is claimed",
    "a part is about to be written",
    "a part with images is written",
    "one matrix is written",
    "the manifest is about to be renamed",
    "ChromaDB is being built",
    "the old snapshot is half deleted",
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_build_interrupted_at_any_stage_ends_with_a_message_and_resumes(
    reference_build: SimpleNamespace,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    index = tmp_path / "index"
    shutil.copytree(reference_build.index, index)
    command = arguments(index, reference_build.dataset, "--rebuild")
    for stage in INTERRUPTED:
        builder = Builder(reference_build.folder, *command, at=STAGES[stage], number=number)
        assert builder.wait() == 130, f"{stage}: {builder.output}"
        assert "Run the same command again" in builder.output
        assert "Traceback" not in builder.output
        assert search_published(index)
    assert Builder(reference_build.folder, *command[:-1]).wait() == 0
    assert_same(index, reference_build.snapshot)


def test_interrupted_build_keeps_what_it_has_embedded(reference_build: SimpleNamespace, tmp_path: Path) -> None:
    index = tmp_path / "index"
    command = arguments(index, reference_build.dataset)
    stored = Moment("EmbeddingStore.add_pictures", "return")
    assert Builder(reference_build.folder, *command, at=stored, number=signal.SIGINT).wait() == 130
    again = Builder(reference_build.folder, *command, "--json")
    assert again.wait() == 0
    result = json.loads(again.output.splitlines()[-1])
    assert 0 < result["reused"] < result["pictures"] == result["reused"] + result["embedded"]
    assert_same(index, reference_build.snapshot)


def test_only_one_of_three_simultaneous_builders_builds(
    reference_build: SimpleNamespace,
    tmp_path: Path,
) -> None:
    index = tmp_path / "index"
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    builders = [Builder(folder, *arguments(index, reference_build.dataset)) for folder in folders]
    codes = [builder.wait() for builder in builders]
    assert set(codes) <= {0, 2}
    assert 0 in codes
    for code, builder in zip(codes, builders, strict=True):
        # A builder that starts after the first has finished finds nothing to do.
        said = "in use by another process" if code else "pictures"
        assert said in builder.output
        assert "Traceback" not in builder.output
    assert_same(index, reference_build.snapshot)
