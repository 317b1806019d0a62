"""Make a finished index from given vectors with the real store and export."""

from pathlib import Path

from retrieval.engines.checksums import write_checksums
from retrieval.features import Vectors
from retrieval.features.base import FeatureIdentity
from retrieval.gallery.source import GallerySource, Item
from retrieval.storage.batches import Batch
from retrieval.storage.catalog import Indexes
from retrieval.storage.export import export
from retrieval.storage.manifest import Manifest, publish_manifest
from retrieval.storage.store import FolderStore


def publish(root: Path, pixels: Vectors, clip: Vectors, labels: list[str]) -> Indexes:
    """Publish one gallery of n items; `pixels` are squares of side s, shape (n, s * s * 3)."""
    build = root / "given" / "build-given"
    store = FolderStore(build, ("pixels", "clip"))
    items = tuple(Item(row, f"id-{row}", label, "", bytes, None) for row, label in enumerate(labels))
    vectors = {"pixels": pixels, "clip": clip}
    store.write(Batch(0, len(items), items, (b"thumbnail",) * len(items), vectors, ()))
    export(store, store.rows())
    store.close()
    manifest = Manifest(
        gallery="given",
        build=build.name,
        source=GallerySource("given"),
        fingerprint="given",
        features={name: FeatureIdentity("given", "", "", "float32", each.shape[1]) for name, each in vectors.items()},
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
