"""Emoji in eight drawing styles: the icons of the bundled gallery, and 286 that it leaves out for their licence.

Noto Emoji is not among them, since the model is evaluated on it.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

PIXELS = 256
GALLERY_STYLE = "fluent-3d"
DRAWN = {  # style -> npm package of SVG drawings
    "fluent-color": "iconify-json-fluent-emoji",
    "fluent-flat": "iconify-json-fluent-emoji-flat",
    "twemoji": "iconify-json-twemoji",
    "openmoji": "iconify-json-openmoji",
    "emojione": "iconify-json-emojione",
    "emojione-v1": "iconify-json-emojione-v1",
    "fxemoji": "iconify-json-fxemoji",
}
STYLES = (GALLERY_STYLE, *DRAWN)
Drawing = Callable[[], Image.Image]


@dataclass(frozen=True)
class Icon:
    """An icon's code point, name, tags, group and subgroup, as in the bundled gallery."""

    code: str
    name: str
    tags: tuple[str, ...]
    group: str
    subgroup: str


def icons(inputs: Path) -> list[Icon]:
    """Return the icons in the order of the bundled gallery, including those that it leaves out."""
    folder = package(inputs, "emojibase-data")
    entries = json.loads((folder / "en" / "data.json").read_text())
    groups = json.loads((folder / "meta" / "groups.json").read_text())
    found = []
    for entry in entries:
        group = groups["groups"].get(str(entry.get("group")))
        if group in (None, "component") or not _gallery_file(inputs, entry["hexcode"].lower()):
            continue
        subgroup = groups["subgroups"][str(entry["subgroup"])]
        found.append(Icon(entry["hexcode"].lower(), entry["label"], tuple(entry.get("tags", [])), group, subgroup))
    return found


def drawings(inputs: Path, style: str, wanted: Sequence[Icon]) -> dict[int, Drawing]:
    """Return a drawing function for each icon that the style contains, by the icon's index in `wanted`."""
    if style == GALLERY_STYLE:
        files = {place: _gallery_file(inputs, icon.code) for place, icon in enumerate(wanted)}
        return {place: _opener(file) for place, file in files.items() if file}
    data = json.loads((package(inputs, DRAWN[style]) / "icons.json").read_text())
    bodies = {name: one["body"] for name, one in data["icons"].items()}
    bodies |= {name: bodies[one["parent"]] for name, one in data.get("aliases", {}).items() if one["parent"] in bodies}
    size = data.get("width", 16)
    by_code = json.loads((package(inputs, DRAWN[style]) / "chars.json").read_text())
    if not by_code:
        # A package without code points is matched by name: by the names in other packages, and by the icons' own names.
        plain = {_letters(name): name for name in bodies}
        for other in ("iconify-json-twemoji", "iconify-json-openmoji", "iconify-json-fluent-emoji-flat"):
            for code, name in json.loads((package(inputs, other) / "chars.json").read_text()).items():
                if _letters(name) in plain:
                    by_code.setdefault(code, plain[_letters(name)])
        for icon in wanted:
            if _letters(icon.name) in plain:
                by_code.setdefault(icon.code, plain[_letters(icon.name)])
    found: dict[int, Drawing] = {}
    for place, icon in enumerate(wanted):
        name = next((by_code[code] for code in spellings(icon.code) if code in by_code), None)
        if name in bodies:
            found[place] = _renderer(bodies[name], size)
    return found


def spellings(code: str) -> tuple[str, ...]:
    """Return the spellings of a code point in packages: with and without variation selectors."""
    return code, code.replace("-fe0f", ""), code + "-fe0f"


def package(inputs: Path, name: str) -> Path:
    """Return the unpacked folder of a package, whatever its version."""
    return next(path for path in sorted(inputs.glob(f"{name}-[0-9]*")) if path.is_dir())


def _gallery_file(inputs: Path, code: str) -> Path | None:
    folder = package(inputs, "lobehub-fluent-emoji-3d") / "assets"
    return next((folder / f"{each}.webp" for each in spellings(code) if (folder / f"{each}.webp").exists()), None)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _opener(path: Path) -> Drawing:
    return lambda: Image.open(path).convert("RGBA")


def _renderer(body: str, size: int) -> Drawing:
    def render() -> Image.Image:
        import resvg_py

        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        svg = f'<svg {spaces} viewBox="0 0 {size} {size}">{body}</svg>'
        return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=PIXELS)))).convert("RGBA")

    return render
