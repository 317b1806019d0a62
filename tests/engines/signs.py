"""A third engine in one module: random hyperplanes, one bit each, stored in one file.

M. Charikar, "Similarity Estimation Techniques from Rounding Algorithms", 2002.
"""

import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from retrieval.engines.base import (
    Candidates,
    Engine,
    EngineDamaged,
    EngineMissing,
    GalleryVectors,
    OpenEngine,
    Positions,
)
from retrieval.engines.measurement import RecallMeasurement, measure_all
from retrieval.engines.recall import MeasuredRecall, read_recall, write_recall
from retrieval.features.base import Vectors
from retrieval.files import whole_file
from retrieval.metrics import Metric

FILE, RECALL = "signs.bin", "signs-recall.json"
BITS = 256
VERSION = b"1"  # one byte; increase it whenever `signs` changes
FACTOR = 4  # candidates per result

Bits = npt.NDArray[np.bool_]


def signs(vectors: Vectors) -> Bits:
    """Return the side of each random hyperplane on which each vector is, shape (n, BITS)."""
    planes = np.random.default_rng(0).standard_normal((vectors.shape[1], BITS), np.float32)
    return np.asarray((vectors - vectors.mean(axis=1, keepdims=True)) @ planes > 0)


class SignsEngine(Engine):
    name = "signs"
    title = "Random hyperplanes"

    @override
    def build(self, gallery: GalleryVectors, folder: Path, floor: float) -> None:
        bits = b"".join(np.packbits(signs(gallery.vectors(each))).tobytes() for each in gallery.features)
        content = VERSION + bits
        with whole_file(folder / FILE) as file:
            file.write(zlib.crc32(content).to_bytes(4) + content)
        figures = measure_all(RecallMeasurement(gallery), self.open(gallery, folder), {})
        write_recall(folder / RECALL, MeasuredRecall(floor, len(gallery), figures))

    @override
    def probe(self, gallery: GalleryVectors, folder: Path) -> None:
        self._read(folder)
        if self.recall(folder) is None:
            raise EngineMissing("its recall was not measured")

    @override
    def open(self, gallery: GalleryVectors, folder: Path) -> "OpenSigns":
        shape = (len(gallery.features), len(gallery), BITS)
        bits = np.unpackbits(np.frombuffer(self._read(folder), np.uint8)).astype(bool).reshape(shape)
        return OpenSigns(dict(zip(gallery.features, bits, strict=True)))

    @override
    def recall(self, folder: Path) -> MeasuredRecall | None:
        return read_recall(folder / RECALL)

    @override
    def drop(self, folder: Path, wait: float = 0) -> None:
        for path in folder.glob("signs*"):  # also what a killed process has left
            path.unlink()

    def _read(self, folder: Path) -> bytes:
        try:
            data = (folder / FILE).read_bytes()
        except FileNotFoundError as error:
            raise EngineMissing(f"there is no {FILE}") from error
        if zlib.crc32(data[4:]) != int.from_bytes(data[:4]):
            raise EngineDamaged(f"{FILE} has changed")
        if not data.startswith(VERSION, 4):
            raise EngineDamaged(f"{FILE} was written by another version")
        return data[4 + len(VERSION) :]


class OpenSigns(OpenEngine):
    def __init__(self, bits: dict[str, Bits]) -> None:
        self._bits = bits

    @override
    def candidates(
        self, features: str, metric: Metric, vectors: Vectors, k: int, among: Positions | None = None
    ) -> list[Candidates]:
        bits = self._bits[features]
        allowed = np.arange(len(bits)) if among is None else among
        different = [(bits[allowed] != query).sum(axis=1) for query in signs(vectors)]
        return [Candidates(allowed[np.argsort(each, kind="stable")[: FACTOR * k]]) for each in different]
