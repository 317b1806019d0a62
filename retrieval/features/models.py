"""Find the model named by `--model`: the bundled one, a local folder, the Hugging Face cache, or the Hub."""

import hashlib
import json
import logging
import re
from pathlib import Path

from retrieval import addresses
from retrieval.errors import ModelError
from retrieval.features.base import AUTO, FeatureIdentity, ModelChoice
from retrieval.gallery.source import local_path
from retrieval.installation import asset

log = logging.getLogger(__name__)

BUNDLED = "mini"
BUNDLED_FOLDER = asset("mini-clip")
AUTO_MODEL = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"  # the original pipeline's weights, better than OpenAI's

DIGEST = re.compile("[0-9a-f]{16}")  # of a local folder
SETTINGS_FILES = ("*.json", "*.txt", "*.model")
DIGESTED = {".json", ".txt", ".model", ".safetensors", ".bin"}
REMEDY = "You can also use the bundled model (`--model mini`) or one you have downloaded (`--model FOLDER`)."


def choose_model(name: str, revision: str | None = None) -> ModelChoice:
    """Return the model for `auto`, `mini`, a local folder, or a Hub id with an optional branch, tag or commit.

    `auto` is `AUTO_MODEL` if it is cached or can be downloaded, and the bundled model otherwise. A model that is named
    explicitly is never replaced by another.

    Raises:
        ModelError: the named model is not available; the message says why and what to do.
    """
    if name == BUNDLED:
        return _local(BUNDLED, BUNDLED_FOLDER, "the options name it")
    if name == AUTO:
        try:
            return _from_hub(AUTO_MODEL, revision)
        except ModelError as error:
            log.info("auto: %s", error)
            return _local(BUNDLED, BUNDLED_FOLDER, f"{AUTO_MODEL} is not cached and the Hub is unreachable")
    folder = local_path(name)
    if folder and folder.is_dir():
        return _local(str(folder), folder, "it is a local folder")
    if name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1:
        raise ModelError(f"There is no model folder {name!r}. Check the path, or give a Hub id (`org/name`). {REMEDY}")
    return _from_hub(name, revision)


def recorded_model(identity: FeatureIdentity) -> ModelChoice:
    """Return the model of an index: one from the Hub even if there is a local folder of this name.

    Raises:
        ModelError: it is not available; the message says why and what to do.
    """
    return _from_hub(identity.name, identity.commit) if identity.commit else choose_model(identity.name)


def is_published(name: str, revision: str) -> bool:
    """Return whether everyone can load a model: the bundled one, or a commit of one on the Hub."""
    if name == BUNDLED:
        return bool(DIGEST.fullmatch(revision))
    from retrieval import hub  # imports huggingface_hub, which the bundled model does not need

    return hub.is_id(name) and bool(addresses.COMMIT.fullmatch(revision))


def _local(name: str, folder: Path, reason: str) -> ModelChoice:
    if not (folder / "config.json").is_file():
        raise ModelError(f"`{folder}` has no config.json, so it is not a model in transformers format. {REMEDY}")
    return ModelChoice(name, folder, _digest(folder), reason)


def _digest(folder: Path) -> str:
    """Return a digest of all settings and weights, so that a changed model counts as a different one."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in DIGESTED):
        with path.open("rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def _from_hub(name: str, revision: str | None) -> ModelChoice:
    """Return the cached model if its files are complete; otherwise download it."""
    from retrieval import hub

    cached = hub.cached("model", name, revision)
    if cached and _complete(cached):
        return ModelChoice(name, cached, cached.name, "it is in the local cache")
    log.info("Looking up %s on the Hub ...", name)
    try:
        found = hub.describe("model", name, revision)
        wanted = [*SETTINGS_FILES, *_weights(found.files, name)]
        log.info("Downloading %s at %s ...", name, found.commit)
        folder = hub.fetch("model", name, revision, wanted)
    except hub.HubError as error:
        raise ModelError(f"{error} {REMEDY}") from error
    return ModelChoice(name, folder, folder.name, "it was downloaded from the Hub")


def _weights(files: tuple[str, ...], name: str) -> list[str]:
    """Return the names of the weight files in transformers format, preferring safetensors."""
    for prefix, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        if found := [f for f in files if f.startswith(prefix) and f.endswith(suffix) and "/" not in f]:
            return found
    raise ModelError(
        f"The model {name!r} has no weights in transformers format (model.safetensors or pytorch_model.bin). {REMEDY}"
    )


def _complete(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    prepared = names & {"preprocessor_config.json", "processor_config.json"}
    if "config.json" not in names or not (prepared or '"pretrained_cfg"' in (folder / "config.json").read_text()):
        return False  # timm has both kinds of settings in one file
    for index in names & {"model.safetensors.index.json", "pytorch_model.bin.index.json"}:
        if set(json.loads((folder / index).read_text())["weight_map"].values()) <= names:
            return True
    return bool(names & {"model.safetensors", "pytorch_model.bin"})
