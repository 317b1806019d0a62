"""Make the bundled photo gallery (a Hugging Face dataset on disk) from two Debian packages.

Usage (in an empty folder, on Debian 12 or wherever both files come from):
    apt-get download gcompris-qt-data=3.1-2 scratch=1.4.0.6~dfsg1-6.1
    for f in *.deb; do dpkg-deb -x $f packages; done
    python recipe.py packages OUT

`selection.csv` names the photos, with their labels, splits and titles; all of these were checked by eye. Authors,
licences and sources come from the packages.
"""

import csv
import io
import re
import struct
import sys
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

SIDE = 320  # pixels of the longer side
GCOMPRIS = "gcompris-qt-data 3.1-2"
SCRATCH = "scratch 1.4.0.6~dfsg1-6.1"
BACKGROUNDS = Path("usr/share/scratch/Media/Backgrounds")
SELECTION = Path(__file__).with_name("selection.csv")
# File names that are misspelt in the README files of GCompris.
MISSPELT = {"germany/audaPalatina.webp": "germany/aulaPalatina.webp", "screDriver.webp": "screwDriver.webp"}
QUERIES = (
    "gc_animals_horse",
    "gc_fishes_fish26",
    "gc_france_chateaudeChenonceau",
    "gc_india_qutubMinar",
    "gc_monuments_parthenon",
    "gc_others_chair",
    "gc_others_pencil",
    "gc_renewable_solar4",
    "gc_renewable_windmill13",
    "gc_resource_calf",
    "gc_resource_gorilla",
    "gc_resource_sun",
    "gc_tools_measuringTape4",
    "gc_tools_scissors3",
    "scratch_building-at-mit",
    "scratch_pathway",
)


@dataclass(frozen=True)
class Origin:
    """A picture as a package contains it, and the rights in it."""

    content: bytes
    author: str
    license: str
    source: str
    package: str


def main(packages: Path, out: Path) -> None:
    """Read the unpacked packages and write the splits `train` and `test`, and the query images, to `out`."""
    origins = {**gcompris(packages / "usr/share/gcompris-qt/rcc"), **scratch(packages)}
    with SELECTION.open(encoding="utf-8", newline="") as file:
        selected = list(csv.DictReader(file))
    features = Features(
        {
            "id": Value("string"),
            "image": Image(),
            "title": Value("string"),
            "label": ClassLabel(names=sorted({each["label"] for each in selected})),
            **{name: Value("string") for name in ("author", "license", "source", "package")},
        }
    )
    rows: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    (out / "data").mkdir(parents=True, exist_ok=True)
    (out / "queries").mkdir(exist_ok=True)
    for each in selected:
        origin = origins[each["picture"]]
        content = small_jpeg(origin.content, "black" if each["label"] == "sun or planet" else "white")
        about = {"author": origin.author, "license": origin.license, "source": origin.source, "package": origin.package}
        image = {"bytes": content, "path": f"{each['id']}.jpg"}
        title, label = each["title"], each["label"]
        rows[each["split"]].append({"id": each["id"], "image": image, "title": title, "label": label, **about})
        if each["id"] in QUERIES:
            (out / "queries" / f"{file_name(title)}.jpg").write_bytes(content)
    for split, members in rows.items():
        Dataset.from_list(members, features=features).to_parquet(out / "data" / f"{split}-00000-of-00001.parquet")
        print(split, len(members), "photos")


def gcompris(archives: Path) -> dict[str, Origin]:
    """Return the pictures of GCompris that its README files describe, by their path in `gcompris/src/activities`."""
    files: dict[str, bytes] = {}
    for name in ("categorization", "details", "erase", "solar_system"):
        files |= resources(archives / f"{name}.rcc")
    for name in ("farm_animals", "monuments", "world_animals"):
        files |= resources(archives / f"explore_{name}.rcc")
    files = {path.removeprefix("gcompris/src/activities/"): content for path, content in files.items()}
    found = {}
    for readme in (path for path in files if path.endswith("/README")):
        for name, fields in attributions(files[readme].decode()):
            path = f"{readme.removesuffix('README')}{MISSPELT.get(name, name)}"
            if path in files:
                found[path] = Origin(files[path], *rights(fields), GCOMPRIS)
    return found


def scratch(packages: Path) -> dict[str, Origin]:
    """Return the backgrounds of Scratch by their path below `BACKGROUNDS`; the package's copyright file covers them."""
    author, root = "Massachusetts Institute of Technology (2011)", packages / BACKGROUNDS
    return {
        path.relative_to(root).as_posix(): Origin(
            path.read_bytes(), author, "CC-BY-SA-3.0", path.relative_to(packages).as_posix(), SCRATCH
        )
        for path in root.rglob("*.jpg")
    }


def resources(archive: Path) -> dict[str, bytes]:
    """Return the files in a Qt resource archive (`rcc --binary`), by path.

    The archive has a tree of fixed-size entries, their names in UTF-16, and their contents, which may be compressed.
    """
    data = archive.read_bytes()
    version, tree, contents, names = struct.unpack(">IIII", data[4:20])
    size = 14 if version < 2 else 22  # bytes per entry; later versions also store the modification time

    def files(entry: int, folder: str) -> Iterator[tuple[str, bytes]]:
        at = tree + entry * size
        name_at, flags = struct.unpack(">IH", data[at : at + 6])
        length = int.from_bytes(data[names + name_at : names + name_at + 2])
        name = data[names + name_at + 6 : names + name_at + 6 + 2 * length].decode("utf-16-be")
        path = f"{folder}/{name}".lstrip("/") if entry else ""
        if flags & 2:  # a folder
            count, first = struct.unpack(">II", data[at + 6 : at + 14])
            for child in range(first, first + count):
                yield from files(child, path)
            return
        start = contents + int.from_bytes(data[at + 10 : at + 14])
        content = data[start + 4 : start + 4 + int.from_bytes(data[start : start + 4])]
        yield path, zlib.decompress(content[4:]) if flags & 1 else content

    return dict(files(0, ""))


def attributions(readme: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield file name and fields (Copyright, License, Source, Comment) of every file that a README describes."""
    for block in re.split(r"\n\s*\n", readme):
        fields: dict[str, list[str]] = {}
        names, current = [], ""
        for line in block.splitlines():
            if field := re.match(r"(Copyright|License|Source|Comment|Files)s?:\s*(.*)", line):
                current, line = field[1], field[2]
            line = line.strip()
            if re.fullmatch(r"\S+\.webp", line) and "http" not in line:
                names.append(line)
            elif current and line:
                fields.setdefault(current, []).append(line)
        for name in names:
            yield name, {field: " ".join(lines) for field, lines in fields.items()}


def rights(fields: dict[str, str]) -> tuple[str, str, str]:
    """Return author, licence and source of a picture; the author of an adaptation follows the photo's own."""
    comment = fields.get("Comment", "")
    source = fields.get("Source") or next(iter(re.findall(r"https?://\S+", comment)), "")
    author = re.sub(r"\s*Copyright (\d{4})", r"; \1", fields.get("Copyright", "")).removeprefix("; ")
    if photo := re.search(r"(?:photo|image|painting) by ([^,]+), license ([^,]+),", comment):
        author = f"{photo[1]} (photo, {photo[2]}); {author} (adaptation)"
    license = re.sub(r"^(CC-BY(?:-SA)?) ", r"\1-", fields.get("License", "")).replace("domain", "Domain")
    return author, license, source


def small_jpeg(content: bytes, background: str) -> bytes:
    """Return a picture as JPEG of at most `SIDE` pixels; transparent parts get the background's colour."""
    picture: PILImage.Image = PILImage.open(io.BytesIO(content))
    if picture.mode in ("RGBA", "LA", "P"):
        picture = picture.convert("RGBA")
        canvas = PILImage.new("RGB", picture.size, background)
        canvas.paste(picture, mask=picture.getchannel("A"))
        picture = canvas
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE), PILImage.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def file_name(title: str) -> str:
    """Return a title in lower-case ASCII with hyphens."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
