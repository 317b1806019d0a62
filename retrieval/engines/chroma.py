"""ChromaDB: approximate nearest neighbours from an HNSW graph."""

from pathlib import Path

from typing_extensions import override

from retrieval.engines.base import Earlier, Engine, EngineDamaged, EngineMissing, GalleryVectors, OpenEngine
from retrieval.engines.chroma_digests import CHROMA, RECALL, chroma_is_unchanged, delete_chroma
from retrieval.engines.chroma_search import OpenChroma
from retrieval.engines.lock import acquire_lock
from retrieval.engines.recall import MeasuredRecall, read_recall
from retrieval.engines.separate import run_in_process
from retrieval.metrics import DEFINITIONS, Metric


class ChromaEngine(Engine):
    """ChromaDB in the folder of an index. Its files belong to one process at a time."""

    name = "chroma"
    title = "ChromaDB"

    @override
    def about(self, metric: Metric) -> str:
        about = super().about(metric)
        if (native := DEFINITIONS[metric].neighbours) is None:
            return about
        name, other = DEFINITIONS[metric].title, DEFINITIONS[native].title
        return (
            f"{self.title} does not support {name}: it finds candidates by {other}, which are sorted by {name}. {about}"
        )

    @override
    def build(self, gallery: GalleryVectors, folder: Path, floor: float) -> None:
        _fill(gallery, folder, floor)

    @override
    def update(self, gallery: GalleryVectors, folder: Path, floor: float, earlier: Earlier) -> None:
        _fill(gallery, folder, floor, earlier)

    @override
    def probe(self, gallery: GalleryVectors, folder: Path) -> None:
        if not (folder / CHROMA).exists():
            raise EngineMissing("there are no files of ChromaDB")
        if not chroma_is_unchanged(folder):
            raise EngineDamaged("ChromaDB's files are missing or have changed since they were written")

    @override
    def open(self, gallery: GalleryVectors, folder: Path) -> OpenEngine:
        from retrieval.engines.chroma_folder import ChromaFolder, keys_of

        chroma = ChromaFolder(folder, reading=True)
        try:
            self.probe(gallery, chroma.build)  # after it is owned: before, another process may delete it
            return OpenChroma(gallery, chroma.open(keys_of(gallery.features)), chroma)
        except BaseException:
            chroma.close()
            raise

    @override
    def drop(self, folder: Path, wait: float = 0) -> None:
        acquire_lock(folder, wait, create=False).release()
        delete_chroma(folder)

    @override
    def recall(self, folder: Path) -> MeasuredRecall | None:
        return read_recall(folder / RECALL)


def _fill(gallery: GalleryVectors, folder: Path, floor: float, earlier: Earlier | None = None) -> None:
    from retrieval.engines.chroma_fill import fill  # imports chromadb, which takes a second
    from retrieval.engines.chroma_folder import keys_of

    # ChromaDB holds Python's global lock while it inserts, which would stop every other thread.
    run_in_process(fill, (gallery, folder, keys_of(gallery.features), floor, earlier), gallery.check_open)
