"""An image-text model from transformers, with its own preprocessing and unit-length output."""

import hashlib
import inspect
import os
import pickle
from collections.abc import Sequence
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
from retrieval.features.base import AUTO, FeatureIdentity, FeatureSet, ModelChoice, Vectors
from retrieval.features.folding import lighten

LONGEST_RATIO = 8  # longer images are cut first: a centre-cropping model would enlarge a ribbon to gigabytes

# Images per forward pass that are fastest, measured in benchmarks/README.md. Convolutions on more of them leave the
# processor's cache; matrix products read each weight once for all.
CONVOLVED, MULTIPLIED = 8, 16

# What transformers raises for settings that are missing, damaged, or need a library that is not installed.
SETTINGS_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)
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


class ClipEncoder(FeatureSet):
    """An image-text model, ready to embed images and texts."""

    batch_size: int

    def __init__(self, choice: ModelChoice, dtype: str = AUTO, device: str | None = None) -> None:
        """Load the model from its folder; nothing is downloaded, and no code from the folder is run.

        Args:
            choice: the model's folder and name.
            dtype: `auto`, `bfloat16`, `float16` or `float32`.
            device: a torch device; None for the best one.

        Raises:
            ModelError: the folder holds no usable image-text model.
        """
        self.choice = choice
        self.device = device or best_device()
        self.dtype = best_dtype(self.device) if dtype == AUTO else dtype
        model, self._processor, self._tokenizer = _load(choice)
        lighten(model.eval())
        self._accepted = inspect.signature(model.get_image_features).parameters.keys()
        convolved = any(isinstance(each, torch.nn.Conv2d) for each in model.modules())
        self.batch_size = CONVOLVED if convolved else MULTIPLIED
        self._model = model.to(self.device, getattr(torch, self.dtype), memory_format=torch.channels_last)
        self.identity = FeatureIdentity(
            name=choice.name,
            revision=choice.revision,
            preprocessing=hashlib.sha256(self._processor.to_json_string().encode()).hexdigest()[:16],
            dtype=self.dtype,
            dimensions=self._dimensions(),
        )
        # Last, because the process with the GPU inherits the model from this one's memory.
        self._embed = zero_gpu.on_gpu(self._forward_on_gpu) if zero_gpu.is_available() else self._forward_here

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
        """Return the projected, L2-normalised embeddings of preprocessed images, shape (n, d), float32.

        Raise ModelError if they are not finite.
        """
        with torch.inference_mode():
            values = {name: self._on_device(each) for name, each in inputs.items()}
            output = self._model.get_image_features(**values)
        return self._unit(output)

    def _on_device(self, values: torch.Tensor) -> torch.Tensor:
        # Only pixels are of the model's type; masks and sizes stay whole numbers.
        return values.to(self.device, getattr(torch, self.dtype) if values.is_floating_point() else None)

    @override
    def embed(self, pictures: Sequence[Image.Image]) -> Vectors:
        return self.forward(self.preprocess(pictures))

    @override
    def embed_query(self, pictures: Sequence[Image.Image]) -> Vectors:
        return self._embed({name: value.numpy() for name, value in self.preprocess(pictures).items()})

    def _forward_here(self, inputs: dict[str, npt.NDArray[Any]]) -> Vectors:
        return self.forward({name: torch.from_numpy(value) for name, value in inputs.items()})

    def _forward_on_gpu(self, inputs: dict[str, npt.NDArray[Any]]) -> Vectors:
        """Compute `forward` in a process of ZeroGPU, which keeps the model on its GPU for the next call."""
        if self.device != "cuda":
            self.device = "cuda"
            self._model.to("cuda")
        return self._forward_here(inputs)

    @override
    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        if self._tokenizer is None or not hasattr(self._model, "get_text_features"):
            raise QueryError(f"The model {self.choice.name} does not support text. Search with an image.")
        # SigLIP was trained on texts padded to the full length; other models do not depend on it.
        padding = "max_length" if "siglip" in self._model.config.model_type else True
        tokens = self._tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            output = self._model.get_text_features(**tokens)
        return self._unit(output)

    def _unit(self, output: Any) -> Vectors:
        vectors = getattr(output, "pooler_output", output)
        result: Vectors = functional.normalize(vectors.float(), dim=-1).cpu().numpy().astype(np.float32, copy=False)
        if not np.isfinite(result).all():
            raise ModelError(
                f"The model {self.choice.name} gives numbers that are not finite ({self.dtype}). Choose another "
                "`--dtype`, such as float32, or another `--model`."
            )
        return result

    def _trim(self, picture: Image.Image) -> Image.Image:
        """Cut a very long image to its middle, which is all that a centre-cropping model uses."""
        if not getattr(self._processor, "do_center_crop", False):
            return picture
        width, height = picture.size
        short = min(width, height)
        if max(width, height) <= LONGEST_RATIO * short:
            return picture
        half = LONGEST_RATIO * short // 2
        x, y = width // 2, height // 2
        return picture.crop((max(0, x - half), max(0, y - half), min(width, x + half), min(height, y + half)))


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    """Return the pixels of images, shape (n, 3, height, width), in the order that is fastest; others are unchanged."""
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values


def _load(choice: ModelChoice) -> tuple[Any, Any, Any]:
    """Return the model, its image processor, and its tokenizer or None."""
    # Imported here, because transformers takes seconds to import and a search by raw pixels does not need it.
    from safetensors import SafetensorError
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # untyped in transformers
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
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
    if not hasattr(model, "get_image_features"):
        raise ModelError(
            f"The model {choice.name} is a {type(model).__name__}, which has no image features. "
            "Choose a CLIP-like model (CLIP, SigLIP, VisionTextDualEncoder)."
        )
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(choice.folder, **LOCAL)
    except SETTINGS_ERRORS:
        tokenizer = None  # images still work; `embed_texts` refuses texts
    return model, processor, tokenizer


def _unusable(choice: ModelChoice, error: Exception) -> ModelError:
    if "custom code" in str(error):
        return ModelError(
            f"The model {choice.name} needs code of its own, and code from models is never run. "
            "Choose another `--model` (CLIP, SigLIP, VisionTextDualEncoder)."
        )
    return ModelError(
        f"The model {choice.name} in `{choice.folder}` cannot be loaded: {hub.first_line(error)} "
        "Delete that folder and download the model again, or choose another `--model`."
    )
