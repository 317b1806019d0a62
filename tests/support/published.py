"""Make a finished index from given vectors, with the real store and snapshot."""

from pathlib import Path

from retrieval.features import Vectors
from retrieval.features.base import FeatureIdentity
from retrieval.gallery.source import GallerySource, Item
from retrieval.indexing.embeddings import EmbeddingStore, key_of
from retrieval.indexing.publish import SnapshotItem, publish, write_snapshot
from retrieval.storage.catalog import Indexes
from retrieval.storage.manifest import Changes, Manifest


def publish_gallery(
    root: Path, pixels: Vectors, clip: Vectors, labels: list[str], snapshot: str = "snapshot-given"
) -> Indexes:
    """Publish one gallery of n items; `pixels` are squares of side s, shape (n, s * s * 3)."""
    store, vectors = EmbeddingStore(root), {"pixels": pixels, "clip": clip}
    features = {name: FeatureIdentity("given", "", "", "float32", each.shape[1]) for name, each in vectors.items()}
    pictures = [store.write_thumbnail(key_of(b"%d" % row), (1, 1), b"thumbnail") for row in range(len(labels))]
    for name, identity in features.items():
        store.add_vectors(name, identity, [each.key for each in pictures], vectors[name])
    items = [
        SnapshotItem(Item(row, f"id-{row}", label, "", bytes), picture)
        for row, (label, picture) in enumerate(zip(labels, pictures, strict=True))
    ]
    manifest = Manifest(
        gallery="given",
        snapshot=snapshot,
        source=GallerySource("given"),
        fingerprint="given",
        features=features,
        pictures=len(labels),
        skipped=0,
        ignored={},
        notes=(),
        created="",
        changes=Changes(len(labels), 0, 0),
        background={},
        digests=write_snapshot(root / "given" / snapshot, items, store, features),
    )
    publish(root / "given", manifest)
    return Indexes(root)
