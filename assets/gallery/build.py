"""Build the bundled icon gallery (a Hugging Face dataset on disk) from npm packages.

Usage (in an empty folder):
    npm pack @lobehub/fluent-emoji-3d@1.1.0 emoji-datasource-google@16.0.0 emojibase-data@17.0.0
    for f in *.tgz; do mkdir -p ${f%.tgz} && tar xzf $f -C ${f%.tgz} --strip-components=1; done
    python build.py .

Gallery images: Fluent Emoji 3D (MIT, Microsoft). Query images: Noto Emoji (Apache-2.0, Google).
Names, labels, groups and tags: emojibase-data (MIT; CLDR annotations, Unicode licence).
"""

import io
import json
import sys
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

SIZE = 192  # pixels; the packages hold 256 x 256
# Images in the package that Microsoft did not release, so that it is uncertain whether they have an open licence.
PEOPLE = ("kiss: ", "couple with heart", "family")  # how their names begin
OTHERS = {"kiss", "paperclip", "technologist", "man technologist", "woman technologist", "video game"}
QUERIES = [
    "1f408",
    "1f40a",
    "1f697",
    "1f355",
    "1f3b8",
    "1f98b",
    "26bd",
    "1f335",
    "1f3f0",
    "1f98a",
    "1f682",
    "1f422",
    "1f34e",
    "1f986",
    "1f9f2",
    "1f30b",
    "1f3af",
    "1f9a9",
    "1f981",
    "1f382",
]


def is_released(name: str) -> bool:
    """Return whether Microsoft released the icon of this name; see the section on licences in README.md."""
    return not (name.startswith(("flag: ", *PEOPLE)) or name.endswith("holding hands") or name in OTHERS)


def on_white(path: Path, size: int) -> bytes:
    """Return an image on white as WebP, size x size pixels."""
    picture = PILImage.open(path).convert("RGBA").resize((size, size), PILImage.Resampling.LANCZOS)
    canvas = PILImage.new("RGB", picture.size, "white")
    canvas.paste(picture, mask=picture.getchannel("A"))
    buffer = io.BytesIO()
    canvas.save(buffer, "WEBP", quality=85, method=6)
    return buffer.getvalue()


def main(root: Path, out: Path) -> None:
    """Read the unpacked packages below `root` and write the dataset to `out`."""
    fluent = root / "lobehub-fluent-emoji-3d-1.1.0" / "assets"
    noto = root / "emoji-datasource-google-16.0.0" / "img" / "google" / "64"
    meta = root / "emojibase-data-17.0.0"
    entries = json.loads((meta / "en" / "data.json").read_text())
    groups = json.loads((meta / "meta" / "groups.json").read_text())

    rows = []
    for entry in entries:
        code = entry["hexcode"].lower()
        names = (code, code.replace("-fe0f", ""), code + "-fe0f")
        picture = next((fluent / f"{n}.webp" for n in names if (fluent / f"{n}.webp").exists()), None)
        if picture is None or "group" not in entry or groups["groups"][str(entry["group"])] == "component":
            continue
        if not is_released(entry["label"]):
            continue
        rows.append(
            {
                "id": code,
                "image": {"bytes": on_white(picture, SIZE), "path": None},
                "name": entry["label"],
                "label": groups["subgroups"][str(entry["subgroup"])],
                "group": groups["groups"][str(entry["group"])],
                "tags": entry.get("tags", []),
                "author": "Microsoft",
                "license": "MIT",
            }
        )
    features = Features(
        {
            "id": Value("string"),
            "image": Image(),
            "name": Value("string"),
            "label": ClassLabel(names=sorted({r["label"] for r in rows})),
            "group": ClassLabel(names=sorted({r["group"] for r in rows})),
            "tags": List(Value("string")),
            "author": Value("string"),
            "license": Value("string"),
        }
    )
    dataset = Dataset.from_list(rows, features=features)
    (out / "data").mkdir(parents=True, exist_ok=True)
    dataset.to_parquet(out / "data" / "train-00000-of-00001.parquet")
    (out / "queries").mkdir(exist_ok=True)
    label = {e["hexcode"].lower(): e["label"] for e in entries}
    for code in QUERIES:
        for n in (code, code + "-fe0f"):
            if (noto / f"{n}.png").exists():
                name = label.get(n, label.get(code, code)).replace(" ", "-").lower()
                PILImage.open(io.BytesIO(on_white(noto / f"{n}.png", 128))).save(out / "queries" / f"{name}.png")
    print(len(rows), "icons", sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6, "MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path("gallery"))
