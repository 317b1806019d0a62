"""CLIP features: any transformers model with `get_image_features`, its own preprocessing, unit-length output."""

import hashlib
import os
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from retrieval.errors import ModelError, QueryError
from retrieval.features import Vectors, zero_gpu
from retrieval.features.folding import lighten
from retrieval.features.models import ModelChoice, ModelIdentity
from retrieval.features.preprocessing import Preprocessing

LONGEST_RATIO = 8  # beyond this a centre-cropping model would enlarge a ribbon to gigabytes to look at its middle

# Pictures in one forward pass that are fastest, see benchmarks/README.md: what convolutions make of more leaves the
# processor's cache; matrix products alone read each weight once for all.
CONVOLVED, MULTIPLIED = 8, 16

# What transformers raises on settings that are missing, damaged, or mean a library that is not installed.
SETTINGS_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)


def best_device() -> str:
    """Return `cuda`, `mps` or `cpu`, whichever this process has first; ZeroGPU's is that of another one."""
    if zero_gpu.here():
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_dtype(device: str) -> str:
    """Return the name of the fastest dtype that this machine has in hardware."""
    if device == "cuda":
        return "float16"
    if device == "cpu" and (
        torch.cpu._is_avx512_bf16_supported()
        or torch.cpu._is_amx_tile_supported()
        or torch.backends.cpu.get_cpu_capability().startswith("SVE")
    ):
        return "bfloat16"
    return "float32"


class ClipEncoder:
    """An image-text model, ready to embed pictures and texts."""

    def __init__(self, choice: ModelChoice, dtype: str = "auto", device: str | None = None) -> None:
        """Load the model from its folder; nothing is fetched and no code from the folder is run.

        Args:
            choice: the model's folder and name.
            dtype: `auto`, `bfloat16`, `float16` or `float32`.
            device: a torch device; None takes the best there is.

        Raises:
            ModelError: the folder holds no usable image-text model.
        """
        # Importing transformers takes seconds; whoever searches by pixels does not pay for them.
        from safetensors import SafetensorError
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # untyped in transformers
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers
        os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
        self.choice = choice
        self.device = device or best_device()
        self.dtype = best_dtype(self.device) if dtype == "auto" else dtype
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            # In the numbers that it was stored in, so that nothing is rounded before norms are folded.
            model = AutoModel.from_pretrained(choice.folder, dtype="auto", **local)
            processors: Any = AutoImageProcessor
            self._processor = processors.from_pretrained(choice.folder, backend="pil", **local)
        except pickle.UnpicklingError as error:  # by torch, which runs no code that is in weights
            raise ModelError(
                f"The weights of model {choice.name} are damaged or hold code, and code from models is never run. "
                "Choose a --model with weights as safetensors."
            ) from error
        except (*SETTINGS_ERRORS, RuntimeError, SafetensorError) as error:
            if "custom code" in str(error):
                raise ModelError(
                    f"Model {choice.name} needs code of its own, and code from models is never run. "
                    "Choose another --model (CLIP, SigLIP, VisionTextDualEncoder)."
                ) from error
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise ModelError(
                f"Model {choice.name} in {choice.folder} cannot be loaded: {reason} "
                "Delete that folder and fetch it again, or choose another --model."
            ) from error
        if not hasattr(model, "get_image_features"):
            raise ModelError(
                f"Model {choice.name} is a {type(model).__name__}, which has no image features. "
                "Choose a CLIP-like model (CLIP, SigLIP, VisionTextDualEncoder)."
            )
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(choice.folder, **local)
        except SETTINGS_ERRORS:
            self._tokenizer = None  # pictures still work; a text is refused in `embed_texts`
        self._preprocessing = Preprocessing(self._processor)
        lighten(model.eval())
        convolved = any(isinstance(each, torch.nn.Conv2d) for each in model.modules())
        self.batch_size = CONVOLVED if convolved else MULTIPLIED
        self._model = model.to(self.device, getattr(torch, self.dtype), memory_format=torch.channels_last)
        self.identity = ModelIdentity(
            name=choice.name,
            revision=choice.revision,
            preprocessing=self._preprocessing_digest(),
            dtype=self.dtype,
            dimensions=int(self.embed_here([Image.new("RGB", (8, 8))]).shape[1]),
        )
        # After the model is loaded, which the process with the GPU finds in memory.
        self._embed = zero_gpu.on_gpu(self._forward_on_gpu) if zero_gpu.here() else self._forward_here

    def preprocess(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Return upright RGB pictures as `forward` takes them, shape (n, 3, height, width); safe in any thread."""
        return self._preprocessing.prepare([self._trim(picture) for picture in pictures])

    def forward(self, pixels: torch.Tensor) -> Vectors:
        """Return the projected, L2-normalised embeddings, shape (n, d), float32, of preprocessed pictures."""
        with torch.inference_mode():
            values = self._preprocessing.normalise(pixels.to(self.device)).to(getattr(torch, self.dtype))
            output = self._model.get_image_features(pixel_values=values)
        return self._unit(output)

    def embed_pictures(self, pictures: Sequence[Image.Image]) -> Vectors:
        """Return a visitor's upright RGB pictures as unit vectors of shape (n, d), float32; on ZeroGPU by the GPU."""
        return self._embed(self.preprocess(pictures).numpy())

    def embed_here(self, pictures: Sequence[Image.Image]) -> Vectors:
        """Do the same always in this process: a GPU that is lent for seconds is lent to visitors."""
        return self.forward(self.preprocess(pictures))

    def _forward_here(self, pixels: npt.NDArray[Any]) -> Vectors:
        return self.forward(torch.from_numpy(pixels))

    def _forward_on_gpu(self, pixels: npt.NDArray[Any]) -> Vectors:
        """Compute `forward` in a process of ZeroGPU, which keeps the model on its GPU for the next call."""
        if self.device != "cuda":
            self.device = "cuda"
            self._model.to("cuda")
        return self._forward_here(pixels)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Return texts as unit vectors of shape (n, d), float32, in the space of the pictures.

        Raises:
            QueryError: the model has no text side.
        """
        if self._tokenizer is None or not hasattr(self._model, "get_text_features"):
            raise QueryError(f"Model {self.choice.name} knows no words; search with a picture.")
        # SigLIP was trained on texts padded to the full length; the others do not care.
        padding = "max_length" if "siglip" in self._model.config.model_type else True
        tokens = self._tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            output = self._model.get_text_features(**tokens)
        return self._unit(output)

    def _unit(self, output: Any) -> Vectors:
        vectors = getattr(output, "pooler_output", output)
        result: Vectors = functional.normalize(vectors.float(), dim=-1).cpu().numpy().astype(np.float32, copy=False)
        return result

    def _trim(self, picture: Image.Image) -> Image.Image:
        """Cut a very long picture to its middle, which is all that a centre-cropping model looks at."""
        if not getattr(self._processor, "do_center_crop", False):
            return picture
        width, height = picture.size
        short = min(width, height)
        if max(width, height) <= LONGEST_RATIO * short:
            return picture
        half = LONGEST_RATIO * short // 2
        x, y = width // 2, height // 2
        return picture.crop((max(0, x - half), max(0, y - half), min(width, x + half), min(height, y + half)))

    def _preprocessing_digest(self) -> str:
        return hashlib.sha256(self._processor.to_json_string().encode()).hexdigest()[:16]
