"""Full and read-only disks: a clear error, no data loss, and searches still work."""

import ctypes
import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from retrieval import cli, index_builder
from tests.support.builds import NAME, arguments, assert_same_contents, contents, search_published
from tests.support.warm import Builder

pytestmark = pytest.mark.endurance

NEWNS, NEWUSER = 0x00020000, 0x10000000  # of <sched.h>
NO_MOUNTS = 77


def enter_mount_namespace() -> bool:
    """Move this process to a namespace for private mounts; return whether it may mount there."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if user and libc.unshare(NEWUSER | NEWNS) == 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        return True
    if user or libc.unshare(NEWNS):
        return False
    return subprocess.run(["mount", "--make-rprivate", "/"], check=False).returncode == 0


def mount(folder: Path, *options: str) -> None:
    subprocess.run(["mount", *options, str(folder)], check=True)


def build_on_full_disk(given: list[str]) -> int:
    """Rebuild on a disk that fills up, and again with enough space; this is the body of a process."""
    if not enter_mount_namespace():
        return NO_MOUNTS
    source, dataset, disk, room = Path(given[0]), given[1], Path(given[2]), int(given[3])
    size = sum(path.stat().st_blocks * 512 for path in source.rglob("*"))
    mount(disk, "-t", "tmpfs", "-o", f"size={2 * size + 2**24}", "none")
    shutil.copytree(source, disk / "index")
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - room))
    return check_recovery(disk / "index", source, dataset, given[4], (disk / "ballast").unlink)


def build_with_file_size_limit(given: list[str]) -> int:
    """Rebuild with a limit on the size of files, and again without it; needs no permission to mount."""
    source, dataset, folder, most = Path(given[0]), given[1], Path(given[2]), int(given[3])
    shutil.copytree(source, folder / "index")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    return check_recovery(
        folder / "index", source, dataset, given[4], lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    )


def check_recovery(index: Path, source: Path, dataset: str, picture: str, repair: Callable[[], object]) -> int:
    """Check that a rebuild fails, the index can still be searched, and a rebuild after `repair` equals the source."""
    command = arguments(index, dataset, "--rebuild")
    assert index_builder.main(command) == 2
    print("exact search", cli.main(["search", picture, "--features", "pixels", "--index", str(index)]))
    repair()
    assert search_published(index)
    assert index_builder.main(command) == 0
    assert_same_contents(contents(index), contents(source))
    assert search_published(index)
    return 0


def use_read_only_disk(given: list[str]) -> int:
    """Search and try to build on a read-only disk; this is the body of a process."""
    if not enter_mount_namespace():
        return NO_MOUNTS
    source, dataset, disk, picture = Path(given[0]), given[1], Path(given[2]), given[3]
    mount(disk, "-t", "tmpfs", "none")
    shutil.copytree(source, disk / "index")
    mount(disk, "-o", "remount,ro")
    assert search_published(disk / "index")
    for engine in ("exact", "chroma"):
        command = ["search", picture, "--features", "pixels", "--engine", engine, "--index", str(disk / "index")]
        assert cli.main(command) == 0
    assert index_builder.main(arguments(disk / "index", dataset)) == 2
    assert index_builder.main(arguments(disk / "index", dataset, "--rebuild")) == 2
    return 0


def run_and_get_output(program: Callable[[list[str]], int], reference_build: SimpleNamespace, *given: object) -> str:
    """Run a function in its own process, and return its output."""
    picture = reference_build.dataset / "005.png"
    passed = map(str, (reference_build.index, reference_build.dataset, *given, picture))
    process = Builder(reference_build.folder, *passed, program=program)
    code = process.wait()
    if code == NO_MOUNTS:
        pytest.skip("this machine does not allow mounts in a private namespace")
    assert code == 0, process.output
    assert "Traceback" not in process.output
    return process.output


# Bytes of free space: the disk is full at the start, while parts or the snapshot are written, and during ChromaDB.
@pytest.mark.parametrize("room", [2**16, 2**18, pytest.param(2**20, marks=pytest.mark.short)])
def test_full_disk_is_reported_and_the_build_succeeds_with_enough_space(
    reference_build: SimpleNamespace, tmp_path: Path, room: int
) -> None:
    said = run_and_get_output(build_on_full_disk, reference_build, tmp_path, room)
    assert said.count("cannot be written: No space left on device") == 1, said.splitlines()
    assert f"The index in `{tmp_path}" in said
    assert "Free some space" in said
    assert "exact search 0" in said


@pytest.mark.short
def test_file_size_limit_is_reported_and_the_build_succeeds_without_it(
    reference_build: SimpleNamespace,
    tmp_path: Path,
) -> None:
    said = run_and_get_output(build_with_file_size_limit, reference_build, tmp_path, 2**17)
    assert f"{tmp_path / 'index' / NAME}" in said
    assert "error: " in said
    assert "exact search 0" in said


@pytest.mark.short
def test_read_only_index_can_be_searched_but_not_built(
    reference_build: SimpleNamespace,
    tmp_path: Path,
) -> None:
    said = run_and_get_output(use_read_only_disk, reference_build, tmp_path)
    assert said.count("cannot be written: Read-only file system. Free some space or change its permissions") == 2
    assert "is read-only: ChromaDB uses a copy" in said
