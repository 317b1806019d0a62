"""The files of engines in the folder of a snapshot, which can be made again from its vectors at any time."""

import logging
from pathlib import Path

from retrieval.engines import ENGINES
from retrieval.engines.base import Earlier, EngineDamaged, EngineMissing, GalleryVectors, OpenEngine
from retrieval.engines.lock import IndexInUse, acquire_lock
from retrieval.engines.recall import FLOOR

log = logging.getLogger(__name__)

READER_WAIT = 10.0  # seconds for another process that builds the files, which is enough for a small gallery
BUILDER_WAIT = 30.0  # a process that writes for a killed builder ends within this time


def open_engine(snapshot: Path, name: str, gallery: GalleryVectors, floor: float = FLOOR) -> OpenEngine:
    """Open an engine in the folder of a published snapshot; build its files if they are missing or damaged.

    `floor` is the recall@10 that they must reach then.

    Raises:
        IndexingError: another process has the engine's files open or is building them.
        OSError: the files cannot be written.
    """
    engine = ENGINES[name]
    try:
        return engine.open(gallery, snapshot)
    except EngineMissing:
        log.info("building %s for `%s`", engine.title, snapshot)
    except EngineDamaged as error:
        log.warning("Rebuilding %s for `%s`: %s.", engine.title, snapshot, error)
    build_engine(snapshot, name, gallery, READER_WAIT, floor)
    return engine.open(gallery, snapshot)


def build_engine(
    snapshot: Path,
    name: str,
    gallery: GalleryVectors,
    wait: float = BUILDER_WAIT,
    floor: float = FLOOR,
    earlier: Earlier | None = None,
) -> None:
    """Build an engine's files if they are missing or damaged; `floor` is the recall@10 to reach.

    The engine may start from those of an earlier state of the gallery.

    If another process builds them, this one waits for it, at most for `wait` seconds.

    Raises:
        IndexingError: another process has the engine's files open or is building them.
        OSError: the files cannot be written.
    """
    if _is_whole(snapshot, name, gallery):
        return
    try:
        lock = acquire_lock(snapshot, wait, name=f"{name}.lock", create=False)
    except IndexInUse as error:
        raise IndexInUse(
            f"The files of {ENGINES[name].title} in `{snapshot}` are being built by another process. "
            "Use the exact scan until they are ready."
        ) from error
    try:
        if _is_whole(snapshot, name, gallery):
            return  # another process has built them
        ENGINES[name].drop(snapshot, wait)
        if earlier:
            ENGINES[name].update(gallery, snapshot, floor, earlier)
        else:
            ENGINES[name].build(gallery, snapshot, floor)
    finally:
        lock.release()


def _is_whole(snapshot: Path, name: str, gallery: GalleryVectors) -> bool:
    try:
        ENGINES[name].probe(gallery, snapshot)
    except EngineDamaged:
        return False
    return True
