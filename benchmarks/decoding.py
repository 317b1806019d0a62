"""The cost of decoding in a separate process: python benchmarks/decoding.py

Decodes JPEG images of three sizes in this process and through the pool, in turn, and prints the median and 95th
percentile of the milliseconds for one image, and the CPU milliseconds of both processes together.
"""

import io
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # this import and those below need the path above
from PIL import Image
from report import report

from retrieval.pictures.decoder import Decoders
from retrieval.pictures.decoding import FORMATS, MAX_PIXELS, decode

SIZES = {(500, 375): 400, (1000, 1000): 200, (4000, 3000): 40}  # -> images that are decoded


def main() -> None:
    """Measure and print the figures."""
    rows = []
    for size, count in SIZES.items():
        data, pool = jpeg(*size), Decoders(1)
        ways = {
            "in this process": partial(decode, data, MAX_PIXELS, FORMATS),
            "separate": partial(pool.decode, data, MAX_PIXELS, FORMATS),
        }
        found = np.array([[milliseconds(way) for way in ways.values()] for _ in range(count + 1)])[1:]
        pool.close()
        row: dict[str, object] = {"image": f"{size[0]} x {size[1]}"}
        for number, name in enumerate(ways):
            row[f"{name}, p50 ms"], row[f"{name}, p95 ms"] = np.percentile(found[:, number], (50, 95)).round(2)
        row["in this process, CPU ms"] = round(own_cpu_milliseconds(ways["in this process"], count), 2)
        row["separate, CPU ms"] = round(all_cpu_milliseconds(data, count), 2)
        rows.append(row)
    report("decoding", rows)


def jpeg(width: int, height: int) -> bytes:
    """Return a JPEG that is as detailed as a photo."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 12 + 1, width // 12 + 1, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def milliseconds(way: Callable[[], object]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    way()
    return (time.perf_counter() - started) * 1e3


def own_cpu_milliseconds(way: Callable[[], object], count: int) -> float:
    """Return the CPU time of one call in this process."""
    started = time.process_time()
    for _ in range(count):
        way()
    return (time.process_time() - started) / count * 1e3


def all_cpu_milliseconds(data: bytes, count: int) -> float:
    """Return the CPU time of one image in both processes, without that of starting the process."""

    def spent(images: int) -> float:
        def cpu() -> float:
            return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

        before, pool = cpu(), Decoders(1)
        for _ in range(images):
            pool.decode(data, MAX_PIXELS, FORMATS)
        pool.close()  # the time of a child counts when it has ended
        return cpu() - before

    return (spent(count + 1) - spent(1)) / count * 1e3


if __name__ == "__main__":
    main()
