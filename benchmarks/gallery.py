"""Make galleries of any size for measurements: variations of the bundled icons, indexed by the real builder."""

import argparse
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parents[1]
ICONS = ROOT / "assets" / "gallery" / "data" / "train-00000-of-00001.parquet"
NAME = "derived"


def add_flags(parser: argparse.ArgumentParser, pictures: int) -> None:
    """Add `--work` and `--pictures`; `pictures` is the default of the latter."""
    parser.add_argument("--work", type=Path, required=True, help="folder for images and index, reused by later runs")
    parser.add_argument("--pictures", type=int, default=pictures, help="images in the gallery (default: %(default)s)")


def indexed(work: Path, pictures: int) -> Path:
    """Return the index folder of a gallery of derived images; build it, or resume its build, if needed."""
    data, index = work / f"derived-{pictures}.parquet", work / f"index-{pictures}"
    if not data.exists():
        work.mkdir(parents=True, exist_ok=True)
        unfinished = data.with_suffix(".part")
        _write(unfinished, pictures)
        unfinished.rename(data)
    command = [sys.executable, "index_builder.py", "--index", str(index), "--dataset", str(data), "--gallery", NAME]
    subprocess.run([*command, "--model", "mini"], cwd=ROOT, check=True, stdout=sys.stderr)
    return index


def derived(icon: bytes, seed: int) -> bytes:
    """Return a JPEG of an icon that is rotated, mirrored, cropped and put on a two-colour background at random."""
    chance = np.random.default_rng(seed)
    with Image.open(io.BytesIO(icon)) as image:
        picture = image.convert("RGB")
    side = picture.width
    if chance.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.rotate(chance.uniform(-25, 25), Image.Resampling.BICUBIC, fillcolor="white")
    corner = chance.uniform(0, 0.2, 2) * side
    edge = side * chance.uniform(0.65, 0.8)
    box = (corner[0], corner[1], corner[0] + edge, corner[1] + edge)
    picture = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
    light, dark = (tuple(int(each) for each in chance.integers(90, 256, 3)) for _ in range(2))
    background = Image.composite(
        Image.new("RGB", picture.size, light),
        Image.new("RGB", picture.size, dark),
        Image.linear_gradient("L").resize(picture.size),
    )
    buffer = io.BytesIO()
    ImageChops.multiply(picture, background).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def queries(count: int) -> list[bytes]:
    """Return different derived images that are in none of these galleries."""
    icons = pq.read_table(ICONS)["image"]
    return [derived(icons[37 * i % len(icons)].as_py()["bytes"], 2**32 + i) for i in range(count)]


def _write(path: Path, pictures: int) -> None:
    """Write the dataset, which repeats the icons in turn, each time with another random variation."""
    icons = pq.read_table(ICONS)
    rows = np.arange(pictures) % len(icons)
    originals = icons["image"].to_pylist()
    table = icons.take(pa.array(rows))
    images = [{"bytes": derived(originals[row]["bytes"], seed), "path": None} for seed, row in enumerate(rows)]
    for name, values in (("image", images), ("id", [f"{seed:06d}" for seed in range(pictures)])):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    pq.write_table(table, path, row_group_size=1000)
