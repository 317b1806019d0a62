"""Galleries whose vectors are on a ChromaDB server, and what must be in their collections."""

import zlib
from pathlib import Path

import chromadb
import numpy as np
import pyarrow.parquet as pq

from retrieval.engines.chroma_folder import keys_of
from retrieval.engines.chroma_server import names_of
from retrieval.indexing.embeddings import EmbeddingStore
from retrieval.metrics import view_of
from retrieval.storage.manifest import read_manifest
from tests.support.builds import NAME


def where(url: str, files: Path) -> list[str]:
    """Return the flags that name a server and the shared folder."""
    return ["--index", url, "--files", str(files)]


def flags(url: str, files: Path, dataset: Path, *more: str) -> list[str]:
    """Return the builder's flags for a gallery on a server, with the bundled model."""
    return [*where(url, files), "--dataset", str(dataset), "--gallery", NAME, "--model", "mini", *more]


def client(url: str) -> chromadb.ClientAPI:
    """Return ChromaDB's own client."""
    return chromadb.HttpClient("127.0.0.1", int(url.rsplit(":", 1)[1]))


def collections(url: str, files: Path) -> dict[object, chromadb.Collection]:
    """Return the collections of the published snapshot."""
    manifest = read_manifest(files / NAME)
    assert manifest is not None
    names = names_of(manifest.collections, manifest.features)
    return {key: client(url).get_collection(name, embedding_function=None) for key, name in names.items()}


def assert_correct(url: str, files: Path) -> None:
    """Assert that the collections hold the ids, labels and vectors of the published images, and nothing else."""
    manifest = read_manifest(files / NAME)
    assert manifest is not None
    items = pq.read_table(files / NAME / manifest.snapshot / "items.parquet").to_pylist()
    keys = {f"{item['key'].hex()}{zlib.crc32(item['label'].encode()):08x}": item for item in items}
    store = EmbeddingStore(files)
    vectors = {
        name: {key: row for part in store.vectors(name, each).whole() for key, row in _rows(part)}
        for name, each in manifest.features.items()
    }
    found = collections(url, files)
    assert list(found) == keys_of(manifest.features)
    for (features, view), collection in found.items():
        entries = collection.get(include=["embeddings", "metadatas", "documents", "uris"])
        assert sorted(entries["ids"]) == sorted(keys)
        assert not any(entries["documents"]) and not any(entries["uris"])
        for id, about, vector in zip(entries["ids"], entries["metadatas"], entries["embeddings"], strict=True):
            assert about == {"label": keys[id]["label"]}
            plain = vectors[features][keys[id]["key"]]
            expected = view_of(view, plain[None].astype(np.float64))[0]
            np.testing.assert_allclose(vector, expected, atol=1e-6)


def _rows(part):
    return zip(part["key"].to_pylist(), np.array(part["vector"].to_pylist(), np.float32), strict=True)
