"""A finished index made from given vectors, written and exported by the real store."""

from pathlib import Path

from retrieval.engines.checksums import write_checksums
from retrieval.features import Features, Vectors
from retrieval.features.models import ModelIdentity
from retrieval.gallery.source import GallerySource, Item
from retrieval.storage.batches import Batch
from retrieval.storage.catalog import Indexes
from retrieval.storage.export import export
from retrieval.storage.manifest import Manifest, publish_manifest
from retrieval.storage.store import FolderStore


def publish(root: Path, pixels: Vectors, clip: Vectors, labels: list[str]) -> Indexes:
    """Publish one gallery of n items; `pixels` are squares of side s, shape (n, s * s * 3)."""
    build = root / "given" / "build-given"
    store = FolderStore(build)
    items = tuple(Item(row, f"id-{row}", label, "", b"") for row, label in enumerate(labels))
    vectors = {Features.PIXELS: pixels, Features.CLIP: clip}
    store.write(Batch(0, len(items), items, (b"thumbnail",) * len(items), vectors, ()))
    export(store, store.rows())
    store.close()
    manifest = Manifest(
        gallery="given",
        build=build.name,
        source=GallerySource("given"),
        fingerprint="given",
        model=ModelIdentity("given", "", "", "float32", clip.shape[1]),
        pixel_size=round((pixels.shape[1] / 3) ** 0.5),
        pictures=len(labels),
        skipped=0,
        created="",
        seconds=0.0,
        bytes=0,
        background={},
    )
    write_checksums(build)
    publish_manifest(root / "given", manifest)
    return Indexes(root)
