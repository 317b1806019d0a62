"""All settings in one frozen value; the only place that reads flags or the environment.

Every flag has an environment variable of the same name behind `RETRIEVAL_`, in capitals: `--pixel-size 64` is
`RETRIEVAL_PIXEL_SIZE=64`. A flag wins over the environment. What a ChromaDB server asks for has no flag, since
everybody on a machine sees flags: RETRIEVAL_INDEX_TOKEN, and Chroma's own CHROMA_API_KEY, _TENANT and _DATABASE.
"""

import argparse
import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retrieval.errors import RetrievalError
from retrieval.features.base import AUTO, DEFAULT_PIXEL_SIZE, DTYPES, FeatureOptions
from retrieval.gallery.source import BUNDLED_GALLERY, GallerySource
from retrieval.storage.projection import Method
from retrieval.storage.server.address import CLOUD, Server, read_address
from retrieval.storage.server.shard import Shard, read_shard

PREFIX = "RETRIEVAL_"
# A name alone says little to a model that was trained on sentences; the mean over some is steadier
# (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 3.1.4).
TEMPLATES = ("{}", "a photo of a {}", "a picture of a {}", "a drawing of a {}", "an icon of a {}")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True)
class Settings:
    """What a person chose, by flag or environment."""

    index: Path | Server
    dataset: str | None
    config: str | None
    split: str | None
    revision: str | None
    image_column: str | None
    label_column: str | None
    caption_column: str | None
    limit: int | None
    streaming: bool
    gallery: str | None
    model: str
    model_revision: str | None
    dtype: str
    pixel_size: int
    batch_size: int | None
    workers: int
    map: str
    host: str | None
    port: int | None
    share: bool
    no_build: bool = False
    log_level: str = "info"
    log_format: str = "text"
    shard: Shard | None = None
    templates: tuple[str, ...] = TEMPLATES

    @property
    def data_asked(self) -> bool:
        """Whether any flag says which data set is meant, or which of its rows or columns."""
        return self.source != GallerySource(str(BUNDLED_GALLERY), streaming=self.streaming) or self.dataset is not None

    @property
    def own_machine(self) -> bool:
        """Whether whoever opens the page sits at this very machine, and so may have it read folders and fetch data.

        That is: it listens on loopback alone, has no public link, is no Space, and stands behind no proxy that is
        known of. Read when asked, since gradio reads these variables at launch.
        """
        # As gradio does: the variable counts only where no host is named.
        host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1") if self.host is None else self.host
        link = os.environ.get("GRADIO_SHARE", "").lower() not in ("", "0", "false")
        proxy = os.environ.get("GRADIO_ROOT_PATH")
        return is_loopback(host) and not (self.no_build or self.share or link or self.space or proxy)

    @property
    def space(self) -> bool:
        """Whether this is a Hugging Face Space, which any stranger may open. Read when asked, as above."""
        return "SPACE_ID" in os.environ or os.environ.get("SYSTEM") == "spaces"

    @property
    def features(self) -> FeatureOptions:
        """The options of the feature types."""
        return FeatureOptions(self.model, self.model_revision, self.dtype, self.pixel_size)

    @property
    def source(self) -> GallerySource:
        """The data set that is meant; without one the bundled gallery."""
        return GallerySource(
            dataset=self.dataset or str(BUNDLED_GALLERY),
            config=self.config,
            split=self.split,
            revision=self.revision,
            image_column=self.image_column,
            label_column=self.label_column,
            caption_column=self.caption_column,
            limit=self.limit,
            streaming=self.streaming,
        )


def is_loopback(host: str) -> bool:
    """Say whether a host's name or address is that of this machine for itself alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        if not text.strip().isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low:,} to {high:,}, not {text[:40]!r}")
        return int(text)

    return read


def _name(text: str) -> str:
    if not text or text.startswith(".") or len(text) > 200 or any(each in text for each in '/\\:*?"<>|\0'):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} cannot be the name of a folder; use letters, digits, - and _")
    return text


def _template(text: str) -> str:
    if "{}" not in text:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} has no {{}} where the words go")
    return text


def _worded(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader whose errors are shown as they are worded, which argparse does with errors of its own alone."""

    def reader(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return reader


def add_index_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--index`, which every program has, and where copies of it are kept if it is on a server."""
    parser.add_argument(
        "--index",
        type=_worded(read_address),
        default="index",
        metavar="DIR|URL",
        help=f"folder of the index, http(s)://host:port of a ChromaDB server, or {CLOUD} (default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        type=lambda text: Path(text).expanduser(),
        default=str(_user_cache() / "lookalike"),
        metavar="DIR",
        help="where copies of finished galleries of a server are kept (default: %(default)s)",
    )


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def add_shard_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--shard`, for workers that build one gallery into one server side by side."""
    parser.add_argument(
        "--shard",
        type=_worded(read_shard),
        metavar="I/N",
        help="do only the I-th of N shares, beside workers that do the others; the last one to end publishes the "
        "gallery. Needs a ChromaDB server as --index",
    )


def add_gallery_flag(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--gallery`."""
    parser.add_argument("--gallery", type=_name, metavar="NAME", help=text)


def add_template_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--template`, for every program that takes words."""
    parser.add_argument(
        "--template",
        dest="templates",
        action="append",
        type=_template,
        metavar="TEXT",
        help="sentence that words are put into for CLIP, with {} for them; may be repeated, the mean counts "
        f"(default: {', '.join(map(repr, TEMPLATES))})",
    )


def add_build_flags(parser: argparse.ArgumentParser) -> None:
    """Add what decides how a gallery is built: data set, columns, model, features."""
    data = parser.add_argument_group("data set")
    data.add_argument(
        "--dataset", metavar="ID", help="Hub id, folder of pictures or parquet file (default: the bundled icons)"
    )
    data.add_argument("--config", help="configuration of the data set")
    data.add_argument("--split", help="split, or a slice such as train[:500] (default: train)")
    data.add_argument("--revision", help="branch, tag or commit of the data set on the Hub")
    data.add_argument("--image-column", metavar="NAME", help="column of the pictures (default: found by its type)")
    data.add_argument("--label-column", metavar="NAME", help="column of the class (default: found by its type)")
    data.add_argument("--caption-column", metavar="NAME", help="column of the text shown (default: found by its type)")
    data.add_argument("--limit", type=_whole(1, 10**12), metavar="N", help="only the first N rows")
    data.add_argument("--streaming", action="store_true", help="read row by row, without downloading all first")
    model = parser.add_argument_group("features")
    model.add_argument(
        "--model",
        default=AUTO,
        metavar="auto|mini|ID",
        help="auto: OpenCLIP ViT-B/32 if it is cached or the Hub answers, else the bundled model; "
        "mini: the bundled model; or a Hub id or folder (default: %(default)s)",
    )
    model.add_argument("--model-revision", metavar="REV", help="branch, tag or commit of the model on the Hub")
    model.add_argument(
        "--dtype", choices=["auto", *DTYPES], default="auto", help="numbers of the model (default: what is fast here)"
    )
    model.add_argument(
        "--pixel-size",
        type=_whole(1, 1024),
        default=DEFAULT_PIXEL_SIZE,
        metavar="S",
        help="raw pixels: S x S (default: %(default)s)",
    )
    work = parser.add_argument_group("work")
    work.add_argument(
        "--batch-size", type=_whole(1, 4096), metavar="N", help="default: what is fastest for a model of its kind"
    )
    work.add_argument(
        "--workers",
        type=_whole(1, 256),
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="decoding threads (default: cores)",
    )
    work.add_argument(
        "--map",
        choices=list(Method),
        default=Method.PCA,
        help="tsne: lay the gallery out by t-SNE too; minutes for 20,000 pictures (default: PCA alone)",
    )


def add_serve_flags(parser: argparse.ArgumentParser) -> None:
    """Add what only the app has: where it listens, and whether the link is public."""
    serve = parser.add_argument_group("server")
    serve.add_argument("--host", help="address to listen on (default: this machine only)")
    serve.add_argument(
        "--port", type=_whole(0, 65535), help="port to listen on (default: the first free one from 7860)"
    )
    serve.add_argument("--share", action="store_true", help="also open a public link through gradio's tunnel")
    serve.add_argument(
        "--no-build",
        action="store_true",
        help="no Galleries tab: for a page behind a proxy, so open to strangers",
    )
    serve.add_argument(
        "--log-level", choices=LOG_LEVELS, default="info", help="what is worth a line (default: %(default)s)"
    )
    serve.add_argument(
        "--log-format", choices=LOG_FORMATS, default="text", help="lines for people, or JSON (default: %(default)s)"
    )


def with_flags(base: Settings, given: Mapping[str, str]) -> Settings:
    """Return settings with flags of a build given anew, read and checked as on the command line.

    Args:
        base: the rest.
        given: texts by the setting's name, such as `image_column`.

    Raises:
        RetrievalError: a text that the flag does not take.
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
    """Return the parsed flags of a program, and the settings they and the environment amount to."""
    _take_environment(parser, environment)
    flags = parser.parse_args(arguments)
    values: dict[str, Any] = {name: getattr(flags, name, None) for name in Settings.__dataclass_fields__}
    defaults = {
        "log_level": "info",
        "log_format": "text",
        "model": AUTO,
        "dtype": "auto",
        "pixel_size": DEFAULT_PIXEL_SIZE,
        "workers": 1,
        "map": Method.PCA,
    }
    values.update({name: default for name, default in defaults.items() if values[name] is None})
    for name in ("streaming", "share", "no_build"):
        values[name] = bool(values[name])
    values["templates"] = tuple(values["templates"] or TEMPLATES)
    if isinstance(server := values["index"], Server):
        token = environment.get("CHROMA_API_KEY" if server.cloud else f"{PREFIX}INDEX_TOKEN", "")
        tenant, database = environment.get("CHROMA_TENANT"), environment.get("CHROMA_DATABASE")
        values["index"] = replace(
            server, cache=flags.cache, tenant=tenant, database=database, token=token.strip() or None
        )
    return flags, Settings(**values)


def _take_environment(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    """Let environment variables stand in for the defaults of flags; argparse checks them like flags."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in set(action.choices.values()):
                _take_environment(sub, environment)
            continue
        text = environment.get(f"{PREFIX}{action.dest.upper()}")
        if text is None or not action.option_strings or action.dest == "help":
            continue
        if isinstance(action, argparse._StoreTrueAction):
            action.default = text.strip().lower() in {"1", "true", "yes", "on"}
        elif isinstance(action, argparse._AppendAction):
            action.default = [text]
        elif action.choices and text not in action.choices:
            choices = ", ".join(map(str, action.choices))
            parser.error(f"{PREFIX}{action.dest.upper()} is {text!r}; choose one of: {choices}")
        else:
            action.default = text
