"""Measure the builder: its speed relative to the model alone, the time of each stage, and its memory.

    python benchmarks/build.py                4,000 images; ViT-B/32 and the bundled model, in float32 and bfloat16
    python benchmarks/build.py --pictures 500 --dtype bfloat16 --model vit
    python benchmarks/build.py --memory       peak memory for 2,000 and for 20,000 images

ViT-B/32 has random weights, which are as fast as trained ones. The *bare* model is what transformers loads, run on
decoded and normalised images in memory, in the builder's batches. It runs as one stream on all cores or as one stream
per core; the faster of the two counts. It is measured before and after the build, so that a change in the machine's
speed affects both. The *lightened* model is the builder's own (`retrieval/features/folding.py`). Ratios are of images
per second.
"""

import argparse
import json
import logging
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from multiprocessing import active_children
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"

import datasets  # this import and those below need the lines above
import torch
from pictures import make_parquet, save_vit
from report import report
from service import resident
from transformers import AutoModel

from retrieval import memory
from retrieval.engines import ENGINES
from retrieval.engines.chroma_fill import fill
from retrieval.engines.chroma_folder import keys_of
from retrieval.engines.recall import FLOOR
from retrieval.features.base import (
    DEFAULT_PIXEL_SIZE,
    FeatureSet,
    ModelChoice,
)
from retrieval.features.encoder import ClipEncoder
from retrieval.features.models import BUNDLED, choose_model
from retrieval.features.pixels import (
    Pixels,
    embed_pixels,
)
from retrieval.gallery.rows import Gallery
from retrieval.gallery.source import GallerySource
from retrieval.indexing.build import BuildPlan, build_index
from retrieval.indexing.embed import set_torch_threads, thumbnail_of
from retrieval.indexing.fit_projection import write_projections
from retrieval.indexing.progress import BuildCallbacks
from retrieval.indexing.publish import background_of
from retrieval.pictures.loading import load_picture
from retrieval.storage.manifest import read_manifest
from retrieval.storage.projection import Method
from retrieval.storage.vectors import ItemVectors

CORES = os.cpu_count() or 1
BARE_PICTURES = 128  # images per measurement of a model alone
STAGE_PICTURES = 256


def main() -> None:
    """Run the benchmark that the flags select and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4000, metavar="N")
    parser.add_argument("--model", choices=["vit", "mini"], action="append", help="default: both")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], action="append", help="default: both")
    parser.add_argument("--batch-size", type=int, metavar="N", help="default: the model's own")
    parser.add_argument("--workers", type=int, default=min(8, CORES), metavar="N")
    parser.add_argument("--pixel-size", type=int, default=DEFAULT_PIXEL_SIZE, metavar="S")
    parser.add_argument("--memory", action="store_true", help="measure memory instead, for 2,000 and 20,000 images")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)  # build once and print the peak memory
    flags = parser.parse_args()
    logging.disable(logging.WARNING)
    memory.keep_freed()  # as the builder does
    with tempfile.TemporaryDirectory() as temporary:
        datasets.config.HF_DATASETS_CACHE = Path(temporary) / "cache"
        folder = Path(temporary)
        if flags.peak:
            _peak(flags, folder)
        elif flags.memory:
            _memory(flags)
        else:
            _speed(flags, folder)


def _speed(flags: argparse.Namespace, folder: Path) -> None:
    size = make_parquet(folder / "pictures.parquet", flags.pictures)
    gallery = Gallery(GallerySource(str(folder / "pictures.parquet")))
    ratios, stages = [], []
    for model in flags.model or ["vit", "mini"]:
        choice = choose_model(BUNDLED) if model == "mini" else choose_model(str(save_vit(folder / "vit")))
        for dtype in flags.dtype or ["float32", "bfloat16"]:
            name = f"{'ViT-B/32' if model == 'vit' else 'bundled'} {dtype}"
            row, spent = _compare(gallery, choice, dtype, folder / f"{model}-{dtype}", flags)
            ratios.append({"model": name, **row})
            stages.append({"model": name, **spent})
    settings = {
        "pictures": flags.pictures,
        "bytes each": round(size),
        "workers": flags.workers,
        "pixel size": flags.pixel_size,
    }
    report("The builder against the bare model", ratios, **settings)
    report("Core-milliseconds per image by stage", stages, measured_on=STAGE_PICTURES)


def _compare(
    gallery: Gallery, choice: ModelChoice, dtype: str, index: Path, flags: argparse.Namespace
) -> tuple[dict[str, object], dict[str, object]]:
    """Return a row of speeds and a row of core-milliseconds for one model and dtype."""
    encoder = ClipEncoder(choice, dtype, "cpu")
    bare = AutoModel.from_pretrained(choice.folder, dtype=getattr(torch, dtype), local_files_only=True).eval()
    models = {"bare": bare.to(memory_format=torch.channels_last), "lightened": encoder._model}
    batch = flags.batch_size or encoder.batch_size
    side = encoder.preprocess([load_picture(_one_picture())])["pixel_values"].shape[-1]
    before = {name: _speeds(model, side, batch) for name, model in models.items()}
    used, started = _cpu_seconds(), time.perf_counter()
    pictures_done: list[float] = []
    _build(index, gallery, encoder, flags, lambda: pictures_done.append(time.perf_counter() - started))
    seconds, used = time.perf_counter() - started, _cpu_seconds() - used
    after = {name: _speeds(model, side, batch) for name, model in models.items()}
    row: dict[str, object] = {"batch": batch, "builder images/s": flags.pictures / seconds}
    for name in models:
        speeds = {way: statistics.mean((before[name][way], after[name][way])) for way in before[name]}
        way = max(speeds, key=lambda each: speeds[each])
        row |= {
            f"{name} images/s": speeds[way],
            f"{name} by": way,
            f"{name} before, after": f"{before[name][way]:.1f}, {after[name][way]:.1f}",
            f"builder / {name}": flags.pictures / seconds / speeds[way],
            f"without the closing steps / {name}": flags.pictures / pictures_done[0] / speeds[way],
        }
    spent = _stages(gallery, encoder, index / "pictures", flags)
    return row, {
        **spent,
        "builder, total": used / flags.pictures * 1e3,
        "two cores' time": seconds * CORES / flags.pictures * 1e3,
    }


def _build(
    index: Path,
    gallery: Gallery,
    encoder: ClipEncoder,
    flags: argparse.Namespace,
    finishing: Callable[[], None] = lambda: None,
) -> None:
    plan = BuildPlan(index, "pictures", gallery, _features(encoder, flags), flags.workers, flags.batch_size)
    callbacks = BuildCallbacks()
    callbacks.finishing = finishing  # type: ignore[method-assign]  # a callback
    build_index(plan, callbacks)


def _features(encoder: ClipEncoder, flags: argparse.Namespace) -> dict[str, FeatureSet]:
    return {"pixels": Pixels(flags.pixel_size), "clip": encoder}


def _speeds(model: Any, side: int, batch: int) -> dict[str, float]:
    """Return the images per second of a model alone, for one stream on all cores and for one stream per core."""
    pixels = torch.randn(batch, 3, side, side).to(model.dtype)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    threads, found = torch.get_num_threads(), {}
    for way, streams, each in (("one stream", 1, CORES), ("one per core", CORES, 1)):
        rounds = max(1, BARE_PICTURES // (batch * streams))

        def stream(each: int = each, rounds: int = rounds) -> None:
            set_torch_threads(each)
            with torch.inference_mode():
                for _ in range(rounds):
                    model.get_image_features(pixel_values=pixels)

        with ThreadPoolExecutor(streams) as pool:
            speeds = []
            for _ in range(3):
                started = time.perf_counter()
                for done in [pool.submit(stream) for _ in range(streams)]:
                    done.result()
                speeds.append(rounds * batch * streams / (time.perf_counter() - started))
        found[way] = statistics.median(speeds)
    torch.set_num_threads(threads)
    return found


def _one_picture() -> Path:
    return next((ROOT / "assets" / "gallery" / "queries").glob("*.png"))


def _stages(gallery: Gallery, encoder: ClipEncoder, folder: Path, flags: argparse.Namespace) -> dict[str, object]:
    """Return the core-milliseconds per image of each stage, run alone on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    encoded = [item.read() for item in islice(gallery.items(), min(STAGE_PICTURES, flags.pictures))]
    pictures = [load_picture(each) for each in encoded]
    batch = flags.batch_size or encoder.batch_size
    parts = [pictures[start : start + batch] for start in range(0, len(pictures), batch)]
    prepared = [encoder.preprocess(part) for part in parts]

    def each_ms(call: Callable[[], object], count: int = len(pictures), repeat: int = 3) -> float:
        spent = []
        for _ in range(repeat):
            started = time.process_time()
            call()
            spent.append(time.process_time() - started)
        return statistics.median(spent) / count * 1e3

    found = {
        "forward": each_ms(lambda: [encoder.forward(part) for part in prepared]),
        "decode": each_ms(lambda: [load_picture(each) for each in encoded]),
        "resize for the model": each_ms(lambda: [encoder.preprocess(part) for part in parts]),
        "pixels": each_ms(lambda: embed_pixels(pictures, flags.pixel_size)),
        "thumbnail": each_ms(lambda: [thumbnail_of(each) for each in pictures]),
    }
    snapshot = next(folder.glob("snapshot-*"))
    names = tuple(_features(encoder, flags))
    count = flags.pictures
    found["ChromaDB"] = each_ms(lambda: _build_chroma(snapshot), count, 1)
    found["background"] = each_ms(lambda: background_of(snapshot, names), count, 1)
    found["maps"] = each_ms(lambda: list(write_projections(snapshot, [(each, Method.PCA) for each in names])), count, 1)
    torch.set_num_threads(threads)
    return dict(found)


def _build_chroma(snapshot: Path) -> None:
    manifest = read_manifest(snapshot.parent)
    assert manifest
    ENGINES["chroma"].drop(snapshot)
    fill(ItemVectors.of(snapshot, manifest), snapshot, keys_of(manifest.features), FLOOR, None)


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _memory(flags: argparse.Namespace) -> None:
    rows = []
    for count in (2000, 20_000):
        command = [sys.executable, __file__, "--peak", "--pictures", str(count), "--pixel-size", str(flags.pixel_size)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append({"pictures": count, **json.loads(output.splitlines()[-1])})
    growth = {name: rows[1][name] - rows[0][name] for name in rows[0]}
    report("Peak memory", [*rows, {**growth, "pictures": "growth"}], pixel_size=flags.pixel_size, model="bundled")


def _peak(flags: argparse.Namespace, folder: Path) -> None:
    """Build in this process and print the peak memory of it and of its writer, sampled ten times a second."""
    # The images are made in a child process, so that the memory this takes does not count.
    maker = multiprocessing.get_context("spawn").Process(
        target=make_parquet, args=(folder / "pictures.parquet", flags.pictures)
    )
    maker.start()
    maker.join()
    encoder = ClipEncoder(choose_model(BUNDLED), "auto", "cpu")
    gallery = Gallery(GallerySource(str(folder / "pictures.parquet")))
    peaks, done = Counter[str](), threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for name, process in (("builder", os.getpid()), *(("writer", each.pid) for each in active_children())):
                with suppress(OSError, IndexError):  # the writer has just ended
                    for kind, what in (("RssAnon", "own"), ("VmRSS", "with mapped files")):
                        key = f"{name}, {what}, MB"
                        peaks[key] = max(peaks[key], round(resident(process or 0, kind) / 2**20))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _build(folder / "index", gallery, encoder, flags)
    finally:
        done.set()
        watcher.join()
    print(json.dumps(peaks))


if __name__ == "__main__":
    main()
