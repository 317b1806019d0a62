"""Draw what each built-in feature type sees of one photo: a strip for docs/features.md.

python assets/screens/features.py --index index

Needs an index of the bundled photos with all of them:
python index_builder.py --model mini --features pixels,color,edges,cnn,clip
It prints the authors and licences of the photos that it shows.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageCms, ImageDraw, ImageFont
from skimage.feature import hog

from retrieval.features import FEATURES
from retrieval.features.base import DEFAULT_PIXEL_SIZE
from retrieval.features.color import LIGHTNESS, SPREAD, TINTS, Colors
from retrieval.features.pixels import embed_pixels
from retrieval.gallery.source import BUNDLED_GALLERIES
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes

PHOTOS = BUNDLED_GALLERIES["photos"]
QUERY, QUERY_ID = PHOTOS / "queries" / "windmills-at-kinderdijk.jpg", "gc_renewable_windmill13"
SIDE, GAP, LINE = 200, 12, 24  # pixels
TO_RGB = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def main() -> None:
    """Draw the panels side by side, and print the credits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, default=ROOT / "index")
    searcher = Searcher(Indexes(parser.parse_args().index))
    with Image.open(QUERY) as opened:
        photo = opened.convert("RGB")
    panels = {"photo": square(photo), "pixels": pixels(photo), "color": colors(photo), "edges": edges(photo)}
    shown = {QUERY_ID}
    for features in ("cnn", "clip"):
        panels[features], ids = nearest(searcher, features)
        shown |= ids
    strip = Image.new("RGB", (len(panels) * (SIDE + GAP) + GAP, SIDE + 2 * GAP + LINE), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(15)
    for place, (name, panel) in enumerate(panels.items()):
        left = GAP + place * (SIDE + GAP)
        strip.paste(panel, (left, GAP))
        title = "Photo" if name == "photo" else FEATURES[name].title
        draw.text((left, SIDE + GAP + 6), title, "black", font)
    strip.save(HERE / "features.webp", quality=82, method=6)
    print(f"{HERE / 'features.webp'}: {(HERE / 'features.webp').stat().st_size:,} bytes")
    credits(shown)


def square(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """Return a picture as the feature types get it: as a square, whatever its shape."""
    return picture.resize((side, side), Image.Resampling.BICUBIC)


def pixels(photo: Image.Image) -> Image.Image:
    """Return the pixels that are compared, enlarged."""
    values = embed_pixels([photo], DEFAULT_PIXEL_SIZE).reshape(DEFAULT_PIXEL_SIZE, DEFAULT_PIXEL_SIZE, 3)
    small = Image.fromarray((values * 255).round().astype(np.uint8))
    return small.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def colors(photo: Image.Image) -> Image.Image:
    """Return the histogram of each quarter as stripes, as high as the share of each colour."""
    _, *quarters = Colors().embed([photo]).reshape(5, -1) ** 2
    steps = np.linspace(-SPREAD, SPREAD, TINTS)
    grid = np.stack(np.meshgrid(np.linspace(0, 255, LIGHTNESS), steps, steps, indexing="ij"), axis=-1).reshape(1, -1, 3)
    lab = Image.fromarray(grid.round().astype(np.int16).astype(np.uint8), "LAB")
    bins = np.asarray(ImageCms.applyTransform(lab, TO_RGB))[0]
    panel, half = Image.new("RGB", (SIDE, SIDE), "white"), SIDE // 2
    for place, shares in enumerate(quarters):
        order = np.argsort(-shares)
        ends = np.round(np.cumsum(shares[order]) / shares.sum() * half).astype(int)
        colours = np.repeat(bins[order], np.diff(ends, prepend=0), axis=0)
        stripes = Image.fromarray(np.repeat(colours[:, None], half, axis=1))
        corner = (place % 2 * half, place // 2 * half)
        panel.paste(stripes, corner)
        ImageDraw.Draw(panel).rectangle((*corner, corner[0] + half - 1, corner[1] + half - 1), outline="grey")
    return panel


def edges(photo: Image.Image) -> Image.Image:
    """Return the directions of the edges in each cell."""
    grey = photo.convert("L").resize((128, 128), Image.Resampling.BOX)
    _, drawn = hog(np.asarray(grey), pixels_per_cell=(32, 32), cells_per_block=(2, 2), visualize=True)
    values = np.minimum(255, drawn / drawn.max() * 400).astype(np.uint8)
    return square(Image.fromarray(255 - values).convert("RGB"))


def nearest(searcher: Searcher, features: str) -> tuple[Image.Image, set[str]]:
    """Return the four photos that are closest by cosine, and their ids."""
    index = searcher.indexes.get("photos")
    hits = searcher.search(Query(picture=QUERY, features=features, top_k=4, gallery="photos"), index).hits
    panel, half = Image.new("RGB", (SIDE, SIDE), "white"), SIDE // 2
    for place, hit in enumerate(hits):
        with Image.open(index.thumbnail(hit.position)) as thumbnail:
            panel.paste(square(thumbnail.convert("RGB"), half - 2), (place % 2 * half, place // 2 * half))
    return panel, {hit.id for hit in hits}


def credits(ids: set[str]) -> None:
    """Print title, author and licence of some photos."""
    for path in sorted((PHOTOS / "data").glob("*.parquet")):
        for row in pq.read_table(path, columns=["id", "title", "author", "license"]).to_pylist():
            if row["id"] in ids:
                print(f"{row['title']}: {row['author']}, {row['license']}")


if __name__ == "__main__":
    main()
