"""Measure the forward pass of one image with the options that torch offers to speed it up.

    python benchmarks/forward.py                 the bundled model, and a ViT-B/32 with random weights
    python benchmarks/forward.py --compile       also with torch.compile, which needs a C++ compiler and a minute

The variants of a model take turns, so that other load on the machine affects all of them. The cosine is the smallest
one, over the bundled query images, between the vectors of a variant and those of the original model in float32.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # this import and those below need the path above
from PIL import Image
from report import report
from torch.nn.functional import cosine_similarity, interpolate
from transformers import AutoImageProcessor, AutoModel, CLIPConfig, CLIPModel, CLIPTextConfig

from retrieval.features.folding import lighten
from retrieval.features.models import choose_model

PICTURES = sorted((ROOT / "assets" / "gallery" / "queries").glob("*.png"))
BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="passes of each variant (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    flags = parser.parse_args()
    rows: list[dict[str, object]] = []
    for name, make in (("bundled", _bundled), ("random ViT-B/32", _vit)):
        rows += [{"model": name} | row for row in _measured(make, flags.rounds, flags.compile)]
    report("Forward pass of one image, ms", rows, rounds=flags.rounds)


def _bundled() -> Any:
    return AutoModel.from_pretrained(choose_model("mini").folder, dtype=FLOAT32).eval()


def _vit() -> Any:
    """Return a model with the vision tower's size of OpenCLIP's; the text tower is small, since it is not used."""
    torch.manual_seed(0)
    vision = {"hidden_size": 768, "intermediate_size": 3072, "patch_size": 32}
    text = CLIPTextConfig(num_hidden_layers=1)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision, projection_dim=512)).eval()


def _measured(make: Callable[[], Any], rounds: int, compiled: bool) -> Iterator[dict[str, object]]:
    processors: Any = AutoImageProcessor
    processor = processors.from_pretrained(choose_model("mini").folder, backend="pil")
    opened = [Image.open(path).convert("RGB") for path in PICTURES]
    pictures = processor(images=opened, return_tensors="pt")["pixel_values"]
    plain = make()
    side = getattr(plain.config.vision_config, "image_size", pictures.shape[-1])  # a ViT accepts a single size
    pictures = interpolate(pictures, (side, side), mode="bicubic", antialias=True)
    with torch.inference_mode():
        wanted = plain.get_image_features(pixel_values=pictures).pooler_output
    variants: dict[tuple[object, ...], tuple[Any, torch.Tensor]] = {}
    for dtype in (FLOAT32, BFLOAT16):
        for layout in LAYOUTS:
            for folded in (False, True):
                model = make()
                if folded:
                    lighten(model)
                model = model.to(dtype).to(memory_format=LAYOUTS[layout])
                variants[str(dtype)[6:], layout, folded, "inference_mode"] = (model, pictures.to(dtype))
    key = ("bfloat16", "channels_last", True)
    variants[*key, "gradients"] = variants[*key, "inference_mode"]
    if compiled:
        model, given = variants[*key, "inference_mode"]
        variants[*key, "torch.compile"] = (torch.compile(model.get_image_features), given)
    spent: dict[tuple[object, ...], list[float]] = {}
    first: dict[tuple[object, ...], float] = {}
    for turn in range(rounds + 1):
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for variant, (model, given) in variants.items():
                call = getattr(model, "get_image_features", model)
                one = given[turn % len(given)][None].contiguous(memory_format=LAYOUTS[str(variant[1])])
                with torch.inference_mode(variant[3] != "gradients"):
                    started = time.perf_counter()
                    call(pixel_values=one)
                    took = (time.perf_counter() - started) * 1e3
                spent.setdefault((*variant, threads), []).append(took) if turn else first.setdefault(variant, took)
    for variant, (model, given) in variants.items():
        call = getattr(model, "get_image_features", model)
        with torch.inference_mode():
            vectors = torch.cat([call(pixel_values=each[None]).pooler_output for each in given]).float()
        names = dict(zip(("dtype", "layout", "lightened", "mode"), variant, strict=True))
        times = {f"{n} threads": statistics.median(spent[*variant, n]) for n in (1, 2)}
        yield names | times | {"first call": first[variant], "cosine": float(cosine_similarity(vectors, wanted).min())}


if __name__ == "__main__":
    main()
