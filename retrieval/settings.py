"""All settings in one frozen value; the only module that reads flags and environment variables.

Each flag has an environment variable with the prefix `RETRIEVAL_`: `--pixel-size 64` is `RETRIEVAL_PIXEL_SIZE=64`. A
flag overrides its variable.
"""

import argparse
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import override

from retrieval import addresses
from retrieval.engines.recall import FLOOR
from retrieval.errors import RetrievalError
from retrieval.features import DEFAULT_FEATURES, DEFAULT_SET, FEATURES, is_name
from retrieval.features.base import (
    AUTO,
    DEFAULT_PIXEL_SIZE,
    DTYPES,
    MAX_PIXEL_SIZE,
    FeatureChoice,
    FeatureIdentity,
    FeatureOptions,
)
from retrieval.gallery.source import BUNDLED_GALLERIES, DEFAULT_GALLERY, GallerySource, Labels, local_path
from retrieval.storage.projection import Method

PREFIX = "RETRIEVAL_"
# CLIP was trained on sentences, so the mean over several prompts is more reliable than a single word
# (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 3.1.4).
TEMPLATES = ("{}", "a photo of a {}", "a picture of a {}", "a drawing of a {}", "an icon of a {}")
PUBLISHED_MANIFEST = "manifest.json"
REVISION = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True)
class PublishedIndex:
    """An index on the Hub, or a folder with its files, which is imported into a folder beside the Hub's cache."""

    repo: str = ""
    revision: str | None = None
    mounted: Path | None = None  # the folder, in place of a repository; a Space can mount datasets

    @property
    def address(self) -> str:
        """What `--index` takes."""
        if self.mounted:
            return f"{addresses.MOUNTED}{self.mounted}"
        return f"{addresses.HUB}{self.repo}" + (f"@{self.revision}" if self.revision else "")

    @property
    def folder(self) -> Path:
        """The folder of the import, which can be deleted at any time."""
        from retrieval import hub  # imports huggingface_hub, which a local index does not need

        name = self.address.removeprefix(addresses.HUB).replace("/", "--")
        if self.mounted:
            name = f"{self.mounted.name}-{sha256(bytes(self.mounted)).hexdigest()[:12]}"
        return Path(hub.hf_home()) / "lookalike" / name


@dataclass(frozen=True)
class Settings:
    """The settings of a program, from its flags and environment variables."""

    index: Path
    published: PublishedIndex | None = None  # what `index` is imported from
    server: str | None = None  # the address of the ChromaDB server that holds the vectors of `index`
    dataset: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    caption_column: str | None = None
    limit: int | None = None
    streaming: bool = False
    labels: str = Labels.FOLDER
    gallery: str | None = None
    features: tuple[FeatureChoice, ...] = ()  # empty: those of an existing gallery, or the default ones
    drop_features: tuple[str, ...] = ()  # of an existing gallery
    model: str = AUTO  # of the default feature type
    model_revision: str | None = None
    dtype: str = AUTO
    pixel_size: int = DEFAULT_PIXEL_SIZE
    batch_size: int | None = None
    workers: int = 1
    map: str = Method.TSNE
    recall_floor: float = FLOOR
    host: str | None = None
    port: int | None = None
    share: bool = False
    no_build: bool = False
    log_level: str = "info"
    log_format: str = "text"
    shard: tuple[int, int] | None = None  # the number of this worker, from 1, and the number of workers
    templates: tuple[str, ...] = TEMPLATES

    @property
    def data_asked(self) -> bool:
        """Whether any setting selects a dataset, or its rows or columns."""
        return (
            self.source != GallerySource(str(BUNDLED_GALLERIES[DEFAULT_GALLERY]), streaming=self.streaming)
            or self.dataset is not None
        )

    @property
    def own_machine(self) -> bool:
        """Whether only users of this machine can open the page, so that they may build galleries.

        True if the app listens on loopback only, without a public link, a known proxy or a Space. The environment is
        read with each call, since gradio reads these variables at launch.
        """
        # As in gradio, the variable counts only if no host is given.
        host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1") if self.host is None else self.host
        link = os.environ.get("GRADIO_SHARE", "").lower() not in ("", "0", "false")
        proxy = os.environ.get("GRADIO_ROOT_PATH")
        return is_loopback(host) and not (self.no_build or self.share or link or on_space() or proxy)

    @property
    def may_build(self) -> bool:
        """Whether users of the page may build galleries: on their own machine, and not into an imported index."""
        return self.own_machine and self.published is None

    def options(self, features: str) -> FeatureOptions:
        """Return the options of a feature type."""
        chosen = {each.name: each for each in self.features}.get(features, FeatureChoice(features))
        if features == DEFAULT_FEATURES:
            return FeatureOptions(self.model, self.model_revision, self.dtype, self.pixel_size)
        return FeatureOptions(chosen.model or AUTO, chosen.revision, self.dtype, self.pixel_size)

    def like(self, features: Mapping[str, FeatureIdentity]) -> "Settings":
        """Return a copy with the feature types and models that an index was built with."""
        models = {name: each for name, each in features.items() if FEATURES[name].has_model}
        chosen = tuple(
            FeatureChoice(name, models[name].name, models[name].commit) if name in models else FeatureChoice(name)
            for name in features
        )
        dtype = next((each.dtype for each in models.values()), self.dtype)
        copy = replace(self, features=chosen, dtype=dtype)
        default = models.get(DEFAULT_FEATURES)
        return replace(copy, model=default.name, model_revision=default.commit) if default else copy

    @property
    def source(self) -> GallerySource:
        """The chosen dataset, by default the bundled photos."""
        given = {name: getattr(self, name) for name in GallerySource.__dataclass_fields__}
        return GallerySource(**given | {"dataset": self.dataset or str(BUNDLED_GALLERIES[DEFAULT_GALLERY])})


def on_space() -> bool:
    """Return whether this program runs on a Hugging Face Space, which is open to everyone."""
    return "SPACE_ID" in os.environ or os.environ.get("SYSTEM") == "spaces"


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is reachable from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        if not text.strip().isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low:,} to {high:,}, not {text[:40]!r}")
        return int(text)

    return read


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text[:40]!r}")
    return share


def folder_name(text: str) -> str:
    """Return a text that can be the name of a folder; raise argparse.ArgumentTypeError for any other."""
    usable = text.isprintable() and text == text.strip() and not any(each in text for each in '/\\:*?"<>|')
    # File systems allow 255 bytes, of which temporary names need some.
    if not usable or not 0 < len(text.encode()) <= 200 or text.startswith("."):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} cannot be the name of a folder; use letters, digits, - and _")
    return text


def _template(text: str) -> str:
    if "{}" not in text:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} has no placeholder {{}} for the text")
    return text


@dataclass(frozen=True)
class Server:
    """The address of a ChromaDB server."""

    url: str


def _index(text: str) -> Path | PublishedIndex | Server:
    if text.startswith(("http://", "https://")):
        return _server(text)
    if "://" not in (text := text.removeprefix(addresses.MOUNTED)):
        folder = Path(text).expanduser()
        published = (folder / PUBLISHED_MANIFEST).is_file()  # an index has manifests in its galleries only
        return PublishedIndex(mounted=folder.resolve()) if published else folder
    from retrieval import hub  # imports huggingface_hub, which a local index does not need

    repo, at, revision = text.removeprefix(addresses.HUB).partition("@")
    if not text.startswith(addresses.HUB) or not hub.is_id(repo) or (at and not REVISION.fullmatch(revision)):
        raise argparse.ArgumentTypeError(
            f"must be a folder, {addresses.HUB}org/name, or http://host:port, not {text[:80]!r}"
        )
    return PublishedIndex(repo, revision or None)


def _server(text: str) -> Server:
    try:
        parts = urlsplit(text)
        usable = bool(parts.hostname) and not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
        parts.port  # noqa: B018  # raises ValueError if it is not a number
    except ValueError:
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(f"must be http://host:port for a ChromaDB server, not {text[:80]!r}")
    return Server(text.rstrip("/"))


def add_index_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--index`, which every program has."""
    parser.add_argument(
        "--index",
        type=_index,
        default="index",
        metavar="DIR",
        help=f"folder of the index, {addresses.HUB}ORG/NAME[@REVISION] for a published one, or http://HOST:PORT of a "
        "ChromaDB server that holds the vectors (default: %(default)s)",
    )
    parser.add_argument(
        "--files",
        type=Path,
        metavar="DIR",
        help="with a ChromaDB server: the shared folder of everything except vectors",
    )


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= 10_000):
        raise argparse.ArgumentTypeError(
            f"must be a worker's number and the number of workers, such as 1/2 or 2/2, not {text[:40]!r}"
        )
    return int(number), int(count)


def add_shard_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--shard`, for workers that share a folder."""
    parser.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="only embed the I-th of N shares of the gallery, while other workers embed the others into the same "
        "folder; a last call without this flag publishes the gallery",
    )


def add_gallery_flag(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--gallery` with a help text."""
    parser.add_argument("--gallery", type=folder_name, metavar="NAME", help=text)


def add_template_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--template`, for every program that takes text queries."""
    parser.add_argument(
        "--template",
        dest="templates",
        action=_Repeated,
        type=_template,
        metavar="TEXT",
        help="prompt for text queries, with {} for the text; may be repeated, which uses the mean embedding "
        f"(default: {', '.join(map(repr, TEMPLATES))})",
    )


class _Repeated(argparse._AppendAction):
    """A flag that can be given several times, which together replace its default."""

    @override
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is self.default:
            setattr(namespace, self.dest, None)
        super().__call__(parser, namespace, values, option_string)


def feature_choices(text: str) -> tuple[FeatureChoice, ...]:
    """Return the feature types in a text such as `pixels,clip=org/name,dino=org/name@revision`."""
    return tuple(_feature_choice(*each.partition("=")) for each in text.split(","))


def _feature_choice(name: str, given: str, model: str) -> FeatureChoice:
    if not is_name(name):
        raise argparse.ArgumentTypeError(
            f"{name[:40]!r} cannot be the name of a feature type: use one of {', '.join(FEATURES)}, or "
            "NAME=MODEL for any model, with a name of at most 20 lowercase letters, digits and hyphens"
        )
    if given and not model:
        raise argparse.ArgumentTypeError(f"{name}= lacks the name of a model")
    if model and name in FEATURES and name != DEFAULT_FEATURES:
        raise argparse.ArgumentTypeError(f"{name} has no choice of models; give {model[:80]!r} another name")
    id, at, revision = model.rpartition("@")
    if not at or local_path(model):
        return FeatureChoice(name, model or None)
    return FeatureChoice(name, id, revision)


def _add_dataset_flags(data: "argparse._ArgumentGroup") -> None:
    data.add_argument(
        "--dataset",
        metavar="ID",
        help="Hub id, folder of images, Parquet file, webdataset shards, or the bundled `photos` or `icons` "
        "(default: photos)",
    )
    data.add_argument("--config", help="configuration of the dataset")
    data.add_argument("--split", help="split, or a slice such as train[:500] (default: train)")
    data.add_argument("--revision", help="branch, tag or commit of the dataset on the Hub")
    data.add_argument("--image-column", metavar="NAME", help="column of the images (default: detected by type)")
    data.add_argument("--label-column", metavar="NAME", help="column of the labels (default: detected by type)")
    data.add_argument("--caption-column", metavar="NAME", help="column of the captions (default: detected by type)")
    data.add_argument(
        "--labels",
        choices=list(Labels),
        default=Labels.FOLDER,
        help="label of an image in a folder: the folder that contains it, the top folder below the gallery's, or none "
        "(default: %(default)s)",
    )
    data.add_argument("--limit", type=_whole_number(1, 10**12), metavar="N", help="use only the first N rows")
    data.add_argument(
        "--streaming", action="store_true", help="read row by row instead of downloading everything first"
    )


def add_build_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that determine how a gallery is built: dataset, features, and the work itself."""
    _add_dataset_flags(parser.add_argument_group("dataset"))
    model = parser.add_argument_group("features")
    model.add_argument(
        "--features",
        action=_Repeated,
        type=feature_choices,
        metavar="NAMES",
        help=f"feature types, separated by commas: {', '.join(FEATURES)}, and any vision models under names of your "
        f"own, such as dino=facebook/dinov2-small; may be repeated (default: {','.join(DEFAULT_SET)} for a new "
        "gallery; an existing one keeps its own)",
    )
    model.add_argument(
        "--model",
        default=AUTO,
        metavar="auto|mini|ID",
        help=f"short for `--features {DEFAULT_FEATURES}=...`; "
        "auto: OpenCLIP ViT-B/32 if it is cached or the Hub is reachable, otherwise the bundled model; "
        "mini: the bundled model; or a Hub id or folder (default: %(default)s)",
    )
    model.add_argument("--model-revision", metavar="REV", help="branch, tag or commit of the model on the Hub")
    model.add_argument(
        "--dtype",
        choices=["auto", *DTYPES],
        default="auto",
        help="data type of the model (default: the fastest one that this machine supports in hardware)",
    )
    model.add_argument(
        "--pixel-size",
        type=_whole_number(1, MAX_PIXEL_SIZE),
        default=DEFAULT_PIXEL_SIZE,
        metavar="S",
        help="size of the raw-pixel images, S x S (default: %(default)s)",
    )
    _add_work_flags(parser.add_argument_group("work"))


def _add_work_flags(work: "argparse._ArgumentGroup") -> None:
    work.add_argument(
        "--batch-size",
        type=_whole_number(1, 4096),
        metavar="N",
        help="images per forward pass (default: the fastest size for this kind of model)",
    )
    work.add_argument(
        "--workers",
        type=_whole_number(1, 256),
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="decoding threads (default: number of cores, at most 8)",
    )
    work.add_argument(
        "--recall-floor",
        type=_share,
        default=FLOOR,
        metavar="R",
        help="recall@10 that ChromaDB must reach, by a larger ef_search if necessary; below, it is not trusted "
        "(default: %(default)s)",
    )
    work.add_argument(
        "--map",
        choices=list(Method),
        default=Method.TSNE,
        help="pca: only PCA maps; tsne: also t-SNE maps, which take about two minutes for 10,000 images "
        "(default: %(default)s)",
    )


def add_serve_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the web app: where it listens, who may build galleries, and the log."""
    serve = parser.add_argument_group("server")
    serve.add_argument("--host", help="address to listen on (default: this machine only)")
    serve.add_argument(
        "--port", type=_whole_number(0, 65535), help="port to listen on (default: the first free one from 7860)"
    )
    serve.add_argument("--share", action="store_true", help="also open a public link through gradio's tunnel")
    hide = "hide the Galleries tab; use it when a proxy makes the page public"
    serve.add_argument("--no-build", action="store_true", help=hide)
    serve.add_argument("--log-level", choices=LOG_LEVELS, default="info", help="log level (default: %(default)s)")
    serve.add_argument("--log-format", choices=LOG_FORMATS, default="text", help="log format (default: %(default)s)")


def with_flags(base: Settings, given: Mapping[str, str]) -> Settings:
    """Return a copy of the settings with some build flags replaced, parsed and checked as on the command line.

    Args:
        base: the settings to copy.
        given: the name of a setting, such as `image_column` -> the text of its flag.

    Raises:
        RetrievalError: a flag does not accept its text.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    add_gallery_flag(parser, "")
    add_build_flags(parser)
    try:
        flags = parser.parse_args([f"--{name.replace('_', '-')}={text}" for name, text in given.items()])
    except argparse.ArgumentError as error:
        raise RetrievalError(f"{error.argument_name}: {error.message}.") from error
    return replace(base, **{name: getattr(flags, name) for name in given})


def parse(
    parser: argparse.ArgumentParser, arguments: list[str] | None = None, environment: Mapping[str, str] = os.environ
) -> tuple[argparse.Namespace, Settings]:
    """Return the parsed flags of a program, and the settings that result from them and from the environment."""
    _take_environment(parser, environment)
    flags = parser.parse_args(arguments)
    given = {name: getattr(flags, name, None) for name in (*Settings.__dataclass_fields__, "files")}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    files = values.pop("files", None)
    if isinstance(values["index"], Server):
        if files is None:
            parser.error("--index with a ChromaDB server also needs --files, a folder for items and thumbnails")
        values |= {"server": values["index"].url, "index": files.expanduser()}
    elif files is not None:
        parser.error("--files belongs to the address of a ChromaDB server: --index http://HOST:PORT")
    elif isinstance(values["index"], PublishedIndex):
        values |= {"published": values["index"], "index": values["index"].folder}
    if "templates" in values:
        values["templates"] = tuple(values["templates"])
    if "features" in values:
        values |= _chosen_features(parser, list(chain(*values["features"])))
    return flags, Settings(**values)


def _chosen_features(parser: argparse.ArgumentParser, choices: list[FeatureChoice]) -> dict[str, Any]:
    """Return the settings for `--features`; a model of the default feature type is what `--model` sets."""
    names = [each.name for each in choices]
    if len(set(names)) < len(names):
        parser.error(f"--features: a name is given twice in {', '.join(names)}")
    model = next((each for each in choices if each.name == DEFAULT_FEATURES and each.model), None)
    return {"features": tuple(choices)} | ({"model": model.model, "model_revision": model.revision} if model else {})


def _take_environment(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    """Use environment variables as the defaults of flags; argparse checks them like flags."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in set(action.choices.values()):
                _take_environment(sub, environment)
            continue
        if not action.option_strings or action.dest == "help":
            continue
        variable = PREFIX + action.option_strings[-1].strip("-").replace("-", "_").upper()
        text = environment.get(variable)
        if text is None:
            continue
        if isinstance(action, argparse._StoreTrueAction):
            action.default = text.strip().lower() in {"1", "true", "yes", "on"}
        elif isinstance(action, argparse._AppendAction):
            try:
                action.default = [action.type(text) if callable(action.type) else text]
            except argparse.ArgumentTypeError as error:
                parser.error(f"{variable}: {error}")
        elif action.choices and text not in action.choices:
            choices = ", ".join(map(str, action.choices))
            parser.error(f"{variable} is {text!r}; choose one of: {choices}")
        else:
            action.default = text
