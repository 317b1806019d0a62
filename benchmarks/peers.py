"""Compare the builder's embedding speed with Chroma's OpenCLIP function, open_clip and sentence-transformers.

    pip install torch==2.13.0 && pip install -r benchmarks/requirements-peers.txt      in a separate environment
    python benchmarks/peers.py                   256 images

All of them embed the same encoded JPEGs from memory with the same ViT-B/32 (random weights), taking turns on the same
machine. Their vectors must match ours in float32: the cosine must be at least 0.9999 in float32 and 0.99 in bfloat16.
Images for which the centre crop differs by a pixel are left out of this check, since open_clip rounds the offset and
transformers truncates it (their cosines are 0.9991 and more). Our builder does more work: it also computes raw-pixel
vectors and thumbnails, and writes them to disk.
"""

import argparse
import io
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # this import and those below need the lines above

# A torchvision built for CUDA cannot load its operators with a CPU-only torch, and its import then fails because two
# operators are undefined. open_clip needs only its transforms.
try:
    import torchvision  # noqa: F401
except RuntimeError:
    for name in [each for each in sys.modules if each.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    named = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        named.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import datasets
import numpy as np
import open_clip
from chromadb.utils.embedding_functions import OpenCLIPEmbeddingFunction
from pictures import make_parquet, save_vit
from PIL import Image
from report import report
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from retrieval.features.encoder import MULTIPLIED, ClipEncoder, best_dtype
from retrieval.features.models import choose_model
from retrieval.features.pixels import Pixels
from retrieval.gallery.rows import Gallery
from retrieval.gallery.source import GallerySource
from retrieval.indexing.embed import Embedder
from retrieval.indexing.embeddings import EmbeddingStore, fill_matrix, key_array
from retrieval.settings import DEFAULT_PIXEL_SIZE

CORES = os.cpu_count() or 1
SIDE = 224  # pixels; the model's input
ONE_BY_ONE = "OpenCLIPEmbeddingFunction, one by one, float32"

Embedding = Callable[[], np.ndarray]


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=256, metavar="N")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="for the peers; ours uses its default")
    parser.add_argument("--repeat", type=int, default=3, metavar="N")
    flags = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        make_parquet(folder / "pictures.parquet", flags.pictures)
        embeddings = _embeddings(folder, flags.batch_size)
        reference = embeddings["Lookalike float32"]()
        same = _same_middle(folder)
        spent: dict[str, list[float]] = {name: [] for name in embeddings}
        cosines: dict[str, float] = {}
        for _ in range(flags.repeat):  # taking turns, so that a change in the machine's speed affects all
            for name, embed in embeddings.items():
                started = time.perf_counter()
                vectors = embed()
                spent[name].append(time.perf_counter() - started)
                vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
                cosines[name] = float((vectors * reference).sum(axis=1)[same].min())
                assert cosines[name] >= (0.9999 if "float32" in name.split()[-1] else 0.99), (name, cosines[name])
    others = reference @ reference.T - np.eye(len(reference))
    assert others.max() < 0.9999, "the images are too similar to tell wrong vectors from right ones"
    speeds = {name: flags.pictures / statistics.median(seconds) for name, seconds in spent.items()}
    ours = [name for name in speeds if name.startswith("Lookalike")]
    rows = [
        {
            "what": name,
            "images/s": speed,
            **{f"{each}, speed-up": speeds[each] / speed for each in ours},
            "smallest cosine": cosines[name],
        }
        for name, speed in speeds.items()
    ]
    report("Embedding images", rows, pictures=flags.pictures, peers_batch=flags.batch_size, our_batch=MULTIPLIED)


def _pictures(folder: Path) -> tuple[Gallery, list[bytes]]:
    gallery = Gallery(GallerySource(str(folder / "pictures.parquet")))
    return gallery, [item.read() for item in gallery.items()]


def _same_middle(folder: Path) -> np.ndarray:
    """Return for each image whether rounding and truncating give the same centre crop."""
    sizes = [_decoded(each).size for each in _pictures(folder)[1]]
    over = [int(SIDE * max(size) / min(size)) - SIDE for size in sizes]
    return np.array([round(each / 2) == each // 2 for each in over])


def _embeddings(folder: Path, batch: int) -> dict[str, Embedding]:
    """Return the functions to compare; each embeds all images and returns unit vectors of shape (n, 512)."""
    gallery, encoded = _pictures(folder)
    vit = choose_model(str(save_vit(folder / "vit")))
    found: dict[str, Embedding] = {}
    for dtype in dict.fromkeys((best_dtype("cpu"), "float32")):
        found[f"Lookalike {dtype}"] = _ours(gallery, ClipEncoder(vit, dtype, "cpu"))
    weights = folder / "open_clip.pt"
    torch.save(as_open_clip(AutoModel.from_pretrained(vit.folder, dtype=torch.float32).state_dict()), weights)
    one_by_one = OpenCLIPEmbeddingFunction("ViT-B-32", str(weights))
    found[ONE_BY_ONE] = lambda: np.concatenate([one_by_one([np.asarray(_decoded(each))]) for each in encoded])
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", str(weights), precision=precision)
        found[f"open_clip, batches, {str(dtype).removeprefix('torch.')}"] = _open_clip(
            model.eval(), transform, dtype, encoded, batch
        )
    for dtype in (torch.float32, torch.bfloat16):
        peer = SentenceTransformer(str(vit.folder), device="cpu", model_kwargs={"dtype": dtype})
        found[f"sentence-transformers, batches, {str(dtype).removeprefix('torch.')}"] = _sentence_transformers(
            peer, encoded, batch
        )
    return found


NAMES = (  # parameter names of transformers' CLIP -> those of open_clip's
    ("vision_model.embeddings.patch_embedding", "visual.conv1"),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm", "visual.ln_pre"),
    ("vision_model.post_layernorm", "visual.ln_post"),
    ("vision_model.encoder.layers", "visual.transformer.resblocks"),
    ("text_model.embeddings.token_embedding", "token_embedding"),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.final_layer_norm", "ln_final"),
    ("text_model.encoder.layers", "transformer.resblocks"),
    ("self_attn", "attn"),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("fc1", "c_fc"),
    ("fc2", "c_proj"),
)


def as_open_clip(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert the weights of transformers' `CLIPModel` to those of open_clip's `CLIP`."""
    found: dict[str, torch.Tensor] = {}
    for name, values in weights.items():
        there = name
        for ours, theirs in NAMES:
            there = there.replace(ours, theirs)
        if "_projection" in name:  # stored transposed
            found["visual.proj" if "visual" in name else "text_projection"] = values.T
        elif ".q_proj." in name:  # open_clip has one matrix for query, key and value
            parts = [weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            found[there.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif not any(part in name for part in (".k_proj.", ".v_proj.")):
            found[there] = values
    return found


def _ours(gallery: Gallery, encoder: ClipEncoder) -> Embedding:
    def embed() -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            store, features = EmbeddingStore(Path(folder)), {"pixels": Pixels(DEFAULT_PIXEL_SIZE), "clip": encoder}
            embedder = Embedder(store, features, None)
            list(embedder.run(gallery.items(), {}, CORES))
            keys = key_array(each.key for each in embedder.read)
            parts = store.vectors("clip", encoder.identity)
            fill_matrix(Path(folder) / "clip.npy", keys, encoder.identity.dimensions, parts)
            return np.load(Path(folder) / "clip.npy")

    return embed


def _open_clip(
    model: torch.nn.Module,
    transform: Callable[[Image.Image], torch.Tensor],
    dtype: torch.dtype,
    encoded: list[bytes],
    batch: int,
) -> Embedding:
    def embed() -> np.ndarray:
        found = []
        with torch.inference_mode():
            for start in range(0, len(encoded), batch):
                pixels = torch.stack([transform(_decoded(each)) for each in encoded[start : start + batch]])
                features = model.encode_image(pixels.to(dtype), normalize=True)  # type: ignore[operator]
                found.append(features.float().numpy())
        return np.concatenate(found)

    return embed


def _sentence_transformers(peer: SentenceTransformer, encoded: list[bytes], batch: int) -> Embedding:
    def embed() -> np.ndarray:
        pictures = [_decoded(each) for each in encoded]
        return np.asarray(peer.encode(pictures, batch_size=batch, normalize_embeddings=True, show_progress_bar=False))

    return embed


def _decoded(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded)).convert("RGB")


if __name__ == "__main__":
    main()
