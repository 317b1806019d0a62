"""Measure an index on a ChromaDB server: writing, bytes and memory per image, the first copy, and a search."""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from report import median_ms, report
from service import resident

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from retrieval.engines.chroma_folder import Collections
from retrieval.errors import IndexingError
from retrieval.features import Vectors
from retrieval.gallery.source import Item
from retrieval.metrics import View
from retrieval.storage.batches import Batch
from retrieval.storage.export import export
from retrieval.storage.server.address import Server
from retrieval.storage.server.connection import connect
from retrieval.storage.server.location import copy_files
from retrieval.storage.server.store import ServerStore
from retrieval.storage.store import FolderStore, Store

ROWS = 64
DIMENSIONS = {"pixels": 3072, "clip": 512}
THUMBNAIL = 8_000  # bytes, about the size of a photo's thumbnail
CENTRES = 200  # cluster centres, since the vectors of images form clusters


@contextmanager
def chroma(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run `chroma run` on a free loopback port; yield its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "chroma"), "run", "--path", str(folder), "--host", "127.0.0.1"]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                connect(Server(f"http://127.0.0.1:{port}"))
                break
            except IndexingError:
                time.sleep(0.1)  # poll until the other process listens
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def size_of(folder: Path, *patterns: str) -> int:
    """Return the total size of the files below a folder whose names match a pattern."""
    files = {file for pattern in patterns for file in folder.rglob(pattern) if file.is_file()}
    return sum(file.stat().st_size for file in files)


def write(store: Store, rows: int) -> dict[str, Vectors]:
    """Write synthetic rows like the builder, and return the vectors of the last batch."""
    random = np.random.default_rng(0)
    centres = {features: random.standard_normal((CENTRES, d)) for features, d in DIMENSIONS.items()}
    vectors: dict[str, Vectors] = {}
    for start in range(0, rows, ROWS):
        batch = range(start, min(start + ROWS, rows))
        items = tuple(Item(row, f"picture-{row}.jpg", f"class {row % 50}", "a caption", bytes, None) for row in batch)
        for features, d in DIMENSIONS.items():
            near = centres[features][random.integers(CENTRES, size=len(batch))]
            vectors[features] = (near + random.standard_normal((len(batch), d))).astype(np.float32)
        vectors["clip"] /= np.linalg.norm(vectors["clip"], axis=1, keepdims=True)
        thumbnails = tuple(random.bytes(THUMBNAIL) for _ in batch)
        store.write(Batch(start, len(batch), items, thumbnails, dict(vectors), ()))
    store.flush()
    return vectors


def main() -> None:
    """Measure a folder and a server of the same size, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=3000)
    count = parser.parse_args().pictures
    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for part in ("folder", "server", "copy"):
            (root / part).mkdir()

        def measure(kind: str, store: Store, reopen: Callable[[], tuple[Store, int | None]]) -> None:
            started = time.perf_counter()
            query = write(store, count)["clip"][0]
            writing = time.perf_counter() - started
            started = time.perf_counter()
            if isinstance(store, ServerStore):
                copy_files(store, store.rows())
            else:
                export(store, store.rows())
            copying = time.perf_counter() - started
            store.close()
            again, memory = reopen()
            nearest = partial(collections_of(again).nearest, ("clip", View.UNIT), query, 26, None, ())
            rows.append(
                {
                    "index": kind,
                    "write ms/image": writing * 1e3 / count,
                    "ChromaDB on disk kB/image": size_of(root / kind, "chroma*", "*.bin", "*.pickle") / count / 1e3,
                    "ChromaDB in memory kB/image": "-" if memory is None else memory / count / 1e3,
                    "files for readers ms/image": copying * 1e3 / count,
                    "query ms": median_ms(nearest, 30, 3),
                }
            )
            again.close()

        def reopen_folder() -> tuple[Store, None]:
            return load(
                FolderStore(root / "folder", DIMENSIONS)
            ), None  # unknown, since this process also holds other data

        measure("folder", FolderStore(root / "folder", DIMENSIONS), reopen_folder)
        with ExitStack() as servers:
            address, process = servers.enter_context(chroma(root / "server"))
            server = Server(address)

            def reopen_server() -> tuple[Store, int]:
                process.kill()
                process.wait()
                address, again = servers.enter_context(chroma(root / "server"))
                before = resident(again.pid)
                store = load(ServerStore(Server(address), connect(Server(address)), "bench"))
                return store, resident(again.pid) - before

            store = ServerStore(server, connect(server), "bench", root / "copy", make=True)
            measure("server", store, reopen_server)
    report("An index on a ChromaDB server", rows, pictures=count, thumbnail_bytes=THUMBNAIL, **DIMENSIONS)


def load(store: Store) -> Store:
    """Search every collection once, which loads its graph into memory."""
    collections = collections_of(store)
    for key in collections.by_key:
        collections.nearest(key, np.ones(DIMENSIONS[key[0]], np.float32), 10, None, ())
    return store


def collections_of(store: Store) -> Collections:
    """Return the ChromaDB collections of a store."""
    return store.collections if isinstance(store, ServerStore) else store._collections()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
