"""A vision model from transformers, with its own preprocessing and unit-length output."""

import hashlib
import inspect
import json
import os
import pickle
import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional
from typing_extensions import override

from retrieval import hub
from retrieval.errors import ModelError, QueryError
from retrieval.features import zero_gpu
from retrieval.features.base import AUTO, FeatureIdentity, FeatureSet, ModelChoice, Output, Reading, Vectors
from retrieval.features.folding import lighten
from retrieval.features.importing import fast_imports
from retrieval.features.reading import read
from retrieval.pictures.loading import WHOLE, Region

LONGEST_RATIO = 8  # longer images are cut first: a centre-cropping model would enlarge a ribbon to gigabytes
CROPS = ("do_center_crop", "crop_pct", "val_transforms")  # what processors that crop have; the last is timm's

# Images per forward pass that are fastest: 129 images/s by the bundled model (121 in batches of 16), 183 by ViT-B/32
# (148 in batches of 8). Convolutions on more of them leave the processor's cache; matrix products read each weight once
# for all.
CONVOLVED, MULTIPLIED = 8, 16
READINGS_KEPT = 256  # of texts, since every search of a text needs its reading

# What transformers raises for settings that are missing, damaged, or need a library that is not installed.
SETTINGS_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)
FILES_OF_TIMM = {"checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay"}  # its arguments for files
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def best_device() -> str:
    """Return the best device of this process: `cuda`, `mps` or `cpu`. On ZeroGPU the GPU is in another process."""
    if zero_gpu.is_available():
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_dtype(device: str) -> str:
    """Return the name of the fastest dtype that the hardware supports."""
    if device == "cuda":
        return "float16"
    if device == "cpu" and (
        torch.cpu._is_avx512_bf16_supported()
        or torch.cpu._is_amx_tile_supported()
        or torch.backends.cpu.get_cpu_capability().startswith("SVE")
    ):
        return "bfloat16"
    return "float32"


Inputs = dict[str, torch.Tensor]
"""What a model takes for n images: `pixel_values`, and for some models masks and sizes; the first dimension is n."""


class ModelEncoder(FeatureSet):
    """A vision model, ready to embed images, and texts if it supports them."""

    batch_size: int
    output: Output

    def __init__(self, choice: ModelChoice, dtype: str = AUTO, device: str | None = None) -> None:
        """Load the model from its folder; nothing is downloaded, and no code from the folder is run.

        Args:
            choice: the model's folder and name.
            dtype: `auto`, `bfloat16`, `float16` or `float32`.
            device: a torch device; None for the best one.

        Raises:
            ModelError: the folder holds no usable model.
        """
        self.choice = choice
        self.device = device or best_device()
        self.dtype = best_dtype(self.device) if dtype == AUTO else dtype
        model, self._processor, self._tokenizer = _load(choice)
        model = self._part(model.eval())
        images = model.get_image_features if self.output is Output.PROJECTED else model.forward
        self._accepted = inspect.signature(images).parameters.keys()
        convolved = any(isinstance(each, torch.nn.Conv2d) for each in model.modules())
        self.batch_size = CONVOLVED if convolved else MULTIPLIED
        self._model = model.to(self.device, getattr(torch, self.dtype), memory_format=torch.channels_last)
        self.has_places = self._averages_places()
        self.identity = FeatureIdentity(
            name=choice.name,
            revision=choice.revision,
            preprocessing=hashlib.sha256(self._processor.to_json_string().encode()).hexdigest()[:16]
            + ("" if self.output is Output.PROJECTED else f" {self.output}"),
            dtype=self.dtype,
            dimensions=self._dimensions(),
        )
        self._tokenizing = threading.Lock()  # fast tokenizers keep the padding and truncation of the call before
        self._read = lru_cache(READINGS_KEPT)(self._read_anew)
        # Last, because the process with the GPU inherits the model from this one's memory.
        self._embed = zero_gpu.on_gpu(self._forward_on_gpu) if zero_gpu.is_available() else self._forward_here

    def _part(self, model: Any) -> Any:
        """Return the part of a model to run, and set which of its outputs is the vector."""
        if hasattr(model, "get_image_features"):
            self.output = Output.PROJECTED
            lighten(model)
        else:
            tokens = (name.endswith("cls_token") for name, _ in model.named_parameters())
            self.output = Output.CLS if any(tokens) else Output.POOLED
        return model

    def _dimensions(self) -> int:
        """Return the length of a vector, which only a forward pass can tell for every kind of model."""
        try:
            return int(self.embed([Image.new("RGB", (8, 8))]).shape[1])
        except (*SETTINGS_ERRORS, IndexError, RuntimeError) as error:
            raise ModelError(
                f"The model {self.choice.name} was loaded but fails to embed an image: {hub.first_line(error)} "
                "Choose another `--model`."
            ) from error

    def preprocess(self, pictures: Sequence[Image.Image]) -> Inputs:
        """Return upright RGB images as `forward` takes them. Safe in any thread."""
        trimmed = [self._trim(picture) for picture in pictures]
        inputs = self._processor(images=trimmed, return_tensors="pt")
        return {name: _channels_last(value) for name, value in inputs.items() if name in self._accepted}

    def forward(self, inputs: Inputs) -> Vectors:
        """Return the L2-normalised vectors of preprocessed images, shape (n, d), float32.

        Raise ModelError if there are none, or if they are not finite.
        """
        with torch.inference_mode():
            values = {name: self._on_device(each) for name, each in inputs.items()}
            if self.output is Output.PROJECTED:
                return self._unit(self._model.get_image_features(**values))
            output = self._model(**values)
            if self.output is Output.CLS:
                return self._unit(output.last_hidden_state[:, 0])  # register tokens and patches follow
            return self._unit(None if output.pooler_output is None else output.pooler_output.flatten(1))

    def _on_device(self, values: torch.Tensor) -> torch.Tensor:
        # Only pixels are of the model's type; masks and sizes stay whole numbers.
        return values.to(self.device, getattr(torch, self.dtype) if values.is_floating_point() else None)

    @override
    def embed(self, pictures: Sequence[Image.Image]) -> Vectors:
        return self.forward(self.preprocess(pictures))

    @override
    def embed_query(self, pictures: Sequence[Image.Image]) -> Vectors:
        return self._embed({name: value.numpy() for name, value in self.preprocess(pictures).items()})

    def _averages_places(self) -> bool:
        """Return whether a vector is a linear function of the mean over the places of a feature map."""
        projected = self.output is Output.PROJECTED
        tower = getattr(self._model, "vision_model", None) if projected else self._model
        linear = not projected or isinstance(getattr(self._model, "visual_projection", None), torch.nn.Linear)
        pools = isinstance(getattr(tower, "pooler", None), (torch.nn.AvgPool2d, torch.nn.AdaptiveAvgPool2d))
        crops_otherwise = any(getattr(self._processor, name, None) for name in CROPS[1:])  # `seen` does not know how
        return linear and pools and self.output is not Output.CLS and not crops_otherwise

    @override
    def places(self, picture: Image.Image) -> Vectors:
        tower = self._model.vision_model if self.output is Output.PROJECTED else self._model
        with torch.inference_mode():
            found = tower(self._on_device(self.preprocess([picture])["pixel_values"])).last_hidden_state
            # In float32, so that rounding does not add up over the places.
            vectors = found[0].permute(1, 2, 0).float()
            if self.output is Output.PROJECTED:
                bias = self._model.visual_projection.bias
                weight = self._model.visual_projection.weight.float()
                vectors = functional.linear(vectors, weight, None if bias is None else bias.float())
            result: Vectors = vectors.cpu().numpy()
        return result

    @override
    def seen(self, picture: Image.Image) -> Region:
        if not getattr(self._processor, "do_center_crop", False):
            return WHOLE
        size, crop = self._processor.size, self._processor.crop_size
        scale = (size.get("shortest_edge") or 0) / min(picture.size)
        width = size.get("width") or scale * picture.width
        height = size.get("height") or scale * picture.height
        x, y = min(1.0, crop["width"] / width), min(1.0, crop["height"] / height)
        return ((1 - x) / 2, (1 - y) / 2, (1 + x) / 2, (1 + y) / 2)

    def _forward_here(self, inputs: dict[str, npt.NDArray[Any]]) -> Vectors:
        return self.forward({name: torch.from_numpy(value) for name, value in inputs.items()})

    def _forward_on_gpu(self, inputs: dict[str, npt.NDArray[Any]]) -> Vectors:
        """Compute `forward` in a process of ZeroGPU, which keeps the model on its GPU for the next call."""
        if self.device != "cuda":
            self.device = "cuda"
            self._model.to("cuda")
        return self._forward_here(inputs)

    @override
    def read(self, text: str, templates: Sequence[str]) -> Reading:
        return self._read(text, tuple(templates))

    def _read_anew(self, text: str, templates: tuple[str, ...]) -> Reading:
        if self._tokenizer is None:
            return Reading(text)  # `embed_texts` refuses it
        with self._tokenizing:
            return read(self._tokenizer, self.identity.title, text, templates)

    @override
    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        if self._tokenizer is None or not hasattr(self._model, "get_text_features"):
            raise QueryError(f"The model {self.choice.name} does not support text. Search with an image.")
        # SigLIP was trained on texts padded to the full length; other models do not depend on it.
        padding = "max_length" if "siglip" in self._model.config.model_type else True
        with self._tokenizing:
            tokens = self._tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            output = self._model.get_text_features(**tokens.to(self.device))
        return self._unit(output)

    @override
    def reads(self, text: str) -> bool:
        unknown = None if self._tokenizer is None else self._tokenizer.unk_token_id
        if unknown is None:
            return True
        with self._tokenizing:
            return unknown not in self._tokenizer(text, add_special_tokens=False).input_ids

    def _unit(self, output: Any) -> Vectors:
        vectors = getattr(output, "pooler_output", output)
        if vectors is None or vectors.ndim != 2:
            raise ModelError(
                f"The model {self.choice.name} has no projected features, CLS token or pooled output. Choose another."
            )
        result: Vectors = functional.normalize(vectors.float(), dim=-1).cpu().numpy().astype(np.float32, copy=False)
        if not np.isfinite(result).all():
            raise ModelError(
                f"The model {self.choice.name} gives numbers that are not finite ({self.dtype}). Choose another "
                "`--dtype`, such as float32, or another `--model`."
            )
        return result

    def _trim(self, picture: Image.Image) -> Image.Image:
        """Cut a very long image to its middle, which is all that a centre-cropping model uses."""
        if not any(getattr(self._processor, name, None) for name in CROPS):
            return picture
        width, height = picture.size
        short = min(width, height)
        if max(width, height) <= LONGEST_RATIO * short:
            return picture
        half = LONGEST_RATIO * short // 2
        x, y = width // 2, height // 2
        return picture.crop((max(0, x - half), max(0, y - half), min(width, x + half), min(height, y + half)))


class ClipEncoder(ModelEncoder):
    """A model whose projected features images and texts share."""

    @override
    def _part(self, model: Any) -> Any:
        if not hasattr(model, "get_image_features"):
            raise ModelError(
                f"The model {self.choice.name} is a {type(model).__name__}, which has no image features that texts can "
                "be compared with. Choose a CLIP-like model (CLIP, SigLIP, VisionTextDualEncoder), or give this one a "
                f"name of its own: `--features dino={self.choice.name}`."
            )
        return super()._part(model)


class TowerEncoder(ModelEncoder):
    """The image tower of an image-text model, without its projection."""

    @override
    def _part(self, model: Any) -> Any:
        self.output = Output.TOWER
        lighten(model.vision_model)
        return model.vision_model


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    """Return the pixels of images, shape (n, 3, height, width), in the order that is fastest; others are unchanged."""
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values


def _load(choice: ModelChoice) -> tuple[Any, Any, Any]:
    """Return the model, its image processor, and its tokenizer or None."""
    # Imported here, because transformers takes seconds to import and a search by raw pixels does not need it.
    from safetensors import SafetensorError

    with fast_imports():
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # untyped in transformers
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        _check_timm(choice)
        # In the dtype of the stored weights, so that nothing is rounded before norms are folded.
        model = AutoModel.from_pretrained(choice.folder, dtype="auto", **LOCAL)
        processors: Any = AutoImageProcessor
        processor = processors.from_pretrained(choice.folder, backend="pil", **LOCAL)
    except pickle.UnpicklingError as error:  # raised by torch, which runs no code from weights
        raise ModelError(
            f"The weights of the model {choice.name} are damaged or hold code, and code from models is never run. "
            "Choose a `--model` with weights as safetensors."
        ) from error
    except (*SETTINGS_ERRORS, RuntimeError, SafetensorError) as error:
        raise _unusable(choice, error) from error
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(choice.folder, **LOCAL)
    except SETTINGS_ERRORS:
        tokenizer = None  # images still work; `embed_texts` refuses texts
    return model, processor, tokenizer


def _check_timm(choice: ModelChoice) -> None:
    """Raise ValueError if the settings of a timm model would make timm read other files or ask the Hub."""
    settings = json.loads((choice.folder / "config.json").read_text(encoding="utf-8"))
    if settings.get("model_type") == "timm_wrapper" or "pretrained_cfg" in settings:
        architecture, given = str(settings.get("architecture")), settings.get("model_args") or {}
        if not re.fullmatch(r"[\w.]+", architecture) or FILES_OF_TIMM & set(given):
            raise ValueError(f"its timm architecture {architecture[:60]!r} has settings that are not allowed")


def _unusable(choice: ModelChoice, error: Exception) -> ModelError:
    if "custom code" in str(error):
        return ModelError(
            f"The model {choice.name} needs code of its own, and code from models is never run. "
            "Choose another `--model` (CLIP, SigLIP, VisionTextDualEncoder)."
        )
    if isinstance(error, ImportError) and any(name in str(error) for name in ("timm", "torchvision")):
        return ModelError(
            f"The model {choice.name} needs timm or torchvision. Install both: `pip install -r requirements-timm.txt`."
        )
    return ModelError(
        f"The model {choice.name} in `{choice.folder}` cannot be loaded: {hub.first_line(error)} "
        "Delete that folder and download the model again, or choose another `--model`."
    )
