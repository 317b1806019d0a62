"""Measure the weight interpolation of step 4 for several shares, on images that the model is not trained on.

    python assets/mini-clip/training/interpolate.py --work FOLDER

FOLDER is that of `train.py`, with step 4 done. Stamps of Tux Paint represent photos: each stamp should find others of
its folder, and a stamp with the name of an ImageNet class should find that class. Half of Noto's icons represent
drawings.
"""

import argparse
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import backbone
import evaluate
import features
import icons
import numpy as np
import numpy.typing as npt
import sources
import space
import torch
import variants
import vision
import words
from PIL import Image
from report import report  # `evaluate` has added its folder to the path

from retrieval.pictures.loading import load_picture

SHARES = (0.0, 0.4, 0.5, 0.6, 0.75, 1.0)
DRAWN = re.compile("cartoon|symbols|flags|roadsigns|seasonal")  # folders of drawings, which are left out
FEWEST = 5  # the minimum number of stamps in a folder
HALF = 5  # the seed for choosing half of Noto
BATCH = 32


@dataclass(frozen=True)
class Asked:
    """The input of the tower's trained part for n images (n, 120, 16, 16), and what each image should find (n,)."""

    maps: torch.Tensor
    wanted: npt.NDArray[np.generic]


def main() -> None:
    """Measure and print one row per share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of train.py, with step 4 done")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="from 0 to 1 (default: %(default)s)")
    flags = parser.parse_args()
    inputs = flags.work / "inputs"
    frozen = features.Frozen(backbone.load(sources.vision_weights(inputs))[0])
    stamps, named = _stamps(frozen, sources.stamps(inputs), words.class_names(inputs))
    drawn = features.read(flags.work / "features")
    shown = drawn.chosen(drawn.of_style(icons.GALLERY_STYLE) & (drawn.variant == features.LARGE))
    gallery = Asked(shown.given(range(len(shown.icon))), shown.icon.numpy())
    half = _half_of_noto(frozen, sources.noto(inputs), icons.icons(inputs))
    _, classifier, _ = backbone.load(sources.vision_weights(inputs))
    rows = []
    first, last = _ends(flags.work)
    for share in flags.shares:
        top = last.between(first, share).eval()
        learned, others = top.space(), ~np.eye(len(stamps.wanted), dtype=bool)
        vectors = _vectors(top, learned, stamps)
        scores, same = vectors @ vectors.T, stamps.wanted[:, None] == stamps.wanted
        alone = [each[others].reshape(len(vectors), -1) for each in (scores, same)]
        to_class = _vectors(top, learned, named) @ learned.classes(classifier).numpy().T
        of_class = named.wanted[:, None] == np.arange(len(classifier))
        to_icon = _vectors(top, learned, half) @ _vectors(top, learned, gallery).T
        of_icon = half.wanted[:, None] == gallery.wanted
        row: dict[str, object] = {
            "share": share,
            f"{len(stamps.wanted)} stamps, P@5": evaluate.precision(*alone, 5),
            "mAP": evaluate.mean_average_precision(*alone),
        }
        for k in (1, 5):
            row[f"{len(named.wanted)} stamps -> class, top-{k}"] = evaluate.found(to_class, of_class, k)
        for k in (1, 5):
            row[f"half of Noto, top-{k}"] = evaluate.found(to_icon, of_icon, k)
        rows.append(row)
    report("Weight interpolation", [{key: round(float(str(value)), 3) for key, value in row.items()} for row in rows])


def _ends(work: Path) -> tuple[vision.Top, vision.Top]:
    """Return the trained part of the tower before and after training."""
    state = torch.load(work / "space.pt", weights_only=True)
    start = space.Space(state["weight"], state["centre"])
    first, last = (vision.Top(backbone.load(sources.vision_weights(work / "inputs"))[0], start) for _ in range(2))
    last.load_state_dict(torch.load(work / "vision.pt", weights_only=True)["parts"][0])
    return first, last


def _vectors(top: vision.Top, learned: space.Space, asked: Asked) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        parts = [top.pooled(asked.maps[at : at + BATCH]) for at in range(0, len(asked.maps), BATCH)]
        vectors: npt.NDArray[np.float32] = learned(torch.cat(parts)).numpy()
    return vectors


def _stamps(frozen: features.Frozen, folder: Path, classes: list[str]) -> tuple[Asked, Asked]:
    """Return all stamps with their folders, and the stamps named like a class with the number of that class."""
    files = [file for file in sorted(folder.rglob("*.png")) if not DRAWN.search(str(file.relative_to(folder)))]
    counted = Counter(file.parent for file in files)
    files = [file for file in files if counted[file.parent] >= FEWEST and not file.stem.endswith("_mirror")]
    maps = _maps(frozen, [variants.on_white(_square(Image.open(file))) for file in files])
    numbers = {name.lower(): number for number, name in reversed(list(enumerate(classes)))}
    named = [(place, numbers[name]) for place, file in enumerate(files) if (name := _name(file)) in numbers]
    places, wanted = zip(*named, strict=True)
    every = Asked(maps, np.array([str(file.parent) for file in files]))
    return every, Asked(maps[list(places)], np.array(wanted))


def _name(stamp: Path) -> str:
    """Return what a stamp shows, from a description like "A dog."."""
    text = stamp.with_suffix(".txt")
    first = text.read_text(errors="replace").splitlines()[0] if text.exists() else ""
    return re.sub(r"^(a|an|the|some)\s+", "", first.strip().lower().rstrip(".!"))


def _square(picture: Image.Image) -> Image.Image:
    """Return a cut-out image centred in the smallest square that contains it."""
    picture = picture.convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _half_of_noto(frozen: features.Frozen, folder: Path, wanted: list[icons.Icon]) -> Asked:
    chosen = sorted(np.random.default_rng(HALF).permutation(len(wanted))[: len(wanted) // 2].tolist())
    files = {place: file for place in chosen if (file := evaluate.noto_file(folder, wanted[place].code))}
    size = (variants.SIZE, variants.SIZE)
    pictures = [load_picture(file).resize(size, Image.Resampling.BICUBIC) for file in files.values()]
    return Asked(_maps(frozen, pictures), np.array(list(files)))


def _maps(frozen: features.Frozen, pictures: list[Image.Image]) -> torch.Tensor:
    return torch.cat([frozen.maps(pictures[at : at + BATCH]).clone() for at in range(0, len(pictures), BATCH)]).float()


if __name__ == "__main__":
    main()
