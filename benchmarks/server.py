"""What an index in a ChromaDB server costs: writing, bytes and memory by picture, a first copy, a search."""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from report import median_ms, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from retrieval.address import Server
from retrieval.errors import IndexingError
from retrieval.export import export
from retrieval.features import Features, Vectors
from retrieval.gallery import Item
from retrieval.metrics import View
from retrieval.server import connect
from retrieval.server_store import ServerStore
from retrieval.store import FolderStore, Store, write_thumbnails

ROWS = 64
DIMENSIONS = {Features.PIXELS: 3072, Features.CLIP: 512}
THUMBNAIL = 8_000  # bytes; of photos they are about as large
CENTRES = 200  # vectors cluster, as those of pictures do


@contextmanager
def chroma(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`chroma run` on a free port of loopback; gives its address and process."""
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
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def resident(process: int) -> int:
    """Return the bytes of memory that a process holds (Linux)."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def write(store: Store, rows: int) -> dict[Features, Vectors]:
    """Write so many made-up pictures as the builder does, and return the vectors of the last batch."""
    random = np.random.default_rng(0)
    centres = {features: random.standard_normal((CENTRES, d)) for features, d in DIMENSIONS.items()}
    vectors: dict[Features, Vectors] = {}
    for start in range(0, rows, ROWS):
        batch = range(start, min(start + ROWS, rows))
        items = [Item(row, f"picture-{row}.jpg", f"class {row % 50}", "a caption", b"") for row in batch]
        for features, d in DIMENSIONS.items():
            near = centres[features][random.integers(CENTRES, size=len(batch))]
            vectors[features] = (near + random.standard_normal((len(batch), d))).astype(np.float32)
        vectors[Features.CLIP] /= np.linalg.norm(vectors[Features.CLIP], axis=1, keepdims=True)
        store.keep({row: random.bytes(THUMBNAIL) for row in batch}, [])
        store.write(items, vectors)
        store.commit(start, len(batch), [])
    return vectors


def main() -> None:
    """Measure a folder and a server of the same size, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=4000)
    count = parser.parse_args().pictures
    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "folder").mkdir()
        with chroma(root / "server") as (address, process):
            empty = resident(process.pid)
            server = Server(address)
            stores: list[tuple[str, Store, Path]] = [
                ("folder", FolderStore(root / "folder"), root / "folder"),
                ("server", ServerStore(server, connect(server), "bench", root / "copy", make=True), root / "server"),
            ]
            (root / "copy").mkdir()
            for kind, store, folder in stores:
                started = time.perf_counter()
                query = write(store, count)[Features.CLIP][0]
                writing = time.perf_counter() - started
                disk = size_of(folder)
                started = time.perf_counter()
                export(store, store.rows())
                if isinstance(store, ServerStore):
                    for thumbnails in store.thumbnails(store.rows()):
                        write_thumbnails(store.folder, thumbnails)
                copying = time.perf_counter() - started
                rows.append(
                    {
                        "index": kind,
                        "write ms/picture": writing * 1e3 / count,
                        "ChromaDB kB/picture": disk / count / 1e3,
                        "ChromaDB RAM kB/picture": (resident(process.pid) - empty) / count / 1e3
                        if kind == "server"
                        else "-",
                        "files for readers ms/picture": copying * 1e3 / count,
                        "files kB/picture": (size_of(root / "copy") if kind == "server" else size_of(folder) - disk)
                        / count
                        / 1e3,
                        "query ms": median_ms(
                            lambda store=store, query=query: store.nearest(Features.CLIP, View.UNIT, query, 26), 30, 3
                        ),
                    }
                )
                store.close()
    report("An index in a ChromaDB server", rows, pictures=count, thumbnail_bytes=THUMBNAIL, **DIMENSIONS)


if __name__ == "__main__":
    main()
