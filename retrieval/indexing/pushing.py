"""Publish the index of a gallery as a dataset on the Hub, in the format of `portable`."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from retrieval import addresses, hub
from retrieval.digests import digest_of
from retrieval.engines.lock import held
from retrieval.errors import IndexingError, RetrievalError
from retrieval.features import FEATURES
from retrieval.indexing.portable import (
    CARD,
    GROUP_BYTES,
    GROUP_ROWS,
    MANIFEST,
    NUMBERS,
    SHARD,
    SHARD_BYTES,
    SHARD_ROWS,
    TEXTS,
    PublishedManifest,
    Shard,
    rows_within,
    schema_of,
    shard_name,
    to_json,
)
from retrieval.labels import printable
from retrieval.storage.catalog import Indexes
from retrieval.storage.items import ITEMS
from retrieval.storage.manifest import rebuild_command
from retrieval.storage.reader import GalleryIndex

OWN_FILES = {CARD, MANIFEST, ".gitattributes"}
# Licences of items that are ids of the Hub once they are in lower case.
LICENSES = ("mit", "apache-2.0", "bsd-3-clause", "unlicense", "pddl", "odbl", "cc0-1.0")
CREATIVE_COMMONS = ("cc-by", "cc-by-sa", "cc-by-nc", "cc-by-nd", "cc-by-nc-sa", "cc-by-nc-nd")
VERSIONS = ("2.0", "2.5", "3.0", "4.0")
OTHER_LICENSE = "other"
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
EXAMPLES = 3  # ids that are shown before they are published


@dataclass(frozen=True)
class Target:
    """The dataset that an index is published as, and who may read it."""

    repo: str  # org/name
    public: bool = False
    license: str | None = None  # an id of the Hub; None: that of the items, if all have the same


def push(indexes: Indexes, gallery: str, target: Target, confirmed: Callable[[str], bool]) -> str | None:
    """Publish the snapshot of a gallery; return the address of the dataset, or None if it was not confirmed.

    Args:
        indexes: the galleries.
        gallery: the name of one, or an empty string for the default one.
        target: the dataset, which is created if it does not exist.
        confirmed: is called with a text that lists what others will be able to read.

    Raises:
        IndexingError: the index is damaged, or others could not use it.
        HubError: the Hub refuses or does not answer.
    """
    index = indexes.get(gallery)
    index.check_matrices()
    _check_portable(index)
    if not hub.is_id(target.repo):
        raise RetrievalError(f"`--push` needs the id of a dataset, `ORG/NAME`, not {target.repo[:80]!r}.")
    if not hub.is_logged_in():
        raise hub.HubError("You are not logged in to the Hub. Run `hf auth login` with a token that may write.")
    _check_visibility(target, _existing(target.repo))
    if not confirmed(_exposed(index, target)):
        return None
    with TemporaryDirectory() as folder, held(indexes.root / index.manifest.gallery):  # no builder deletes the snapshot
        write_repository(index, target, Path(folder))
        hub.create_dataset(target.repo, private=not target.public)
        existing = hub.describe("dataset", target.repo)
        _check_visibility(target, existing)  # it may have been created meanwhile
        names = {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*")}
        obsolete = [name for name in existing.files if SHARD.fullmatch(name) and name not in names]
        message = f"Publish {len(index):,} images of {printable(index.manifest.gallery)}"
        hub.upload(target.repo, Path(folder), obsolete, existing.commit, message)
    return f"{addresses.HUB}{target.repo}"


def write_repository(index: GalleryIndex, target: Target, folder: Path) -> None:
    """Write the files of a published index to a folder; raise IndexingError if a thumbnail is damaged.

    They hold nothing that tells where the index or its dataset is on this machine.
    """
    manifest = index.manifest
    published = PublishedManifest(
        gallery=manifest.gallery,
        features={name: manifest.features[name] for name in index.features},
        pictures=len(index),
        created=manifest.created,
        shards=tuple(_write_shards(index, folder)),
    )
    (folder / MANIFEST).write_text(to_json(published), encoding="utf-8")
    (folder / CARD).write_text(_card(published, target, target.license or _license(index)), encoding="utf-8")


def _check_portable(index: GalleryIndex) -> None:
    for name in index.features:
        identity = index.manifest.features[name]
        if not FEATURES[name].is_portable(identity):
            raise IndexingError(
                f"The gallery {index.manifest.gallery!r} was built with the model {identity.title!r}, which is on this "
                "machine only, so others could not search it. Upload the model to the Hub and build the gallery with "
                "its id, or with the bundled model (`--model mini`)."
            )


def _existing(repo: str) -> hub.Repository | None:
    """Return the dataset of this name, if there is one; raise HubError if it holds anything but an index."""
    try:
        found = hub.describe("dataset", repo)
    except hub.HubMissing:
        return None
    foreign = [name for name in found.files if name not in OWN_FILES and not SHARD.fullmatch(name)]
    if not foreign and MANIFEST not in found.files:
        foreign = [name for name in found.files if SHARD.fullmatch(name)]
    if foreign:
        raise hub.HubError(
            f"The dataset {repo!r} holds files that are not of an index, such as `{printable(foreign[0])}`. "
            "Choose another name."
        )
    return found


def _check_visibility(target: Target, existing: hub.Repository | None) -> None:
    """Raise HubError unless an existing dataset is as private or public as was asked for."""
    if existing and existing.private == target.public:
        now, other = ("private", "public") if existing.private else ("public", "private")
        flag = "omit `--public`" if existing.private else "add `--public`"
        raise hub.HubError(
            f"The dataset {target.repo!r} exists and is {now}. To publish to it, {flag}. To make it {other}, "
            "change its settings on the Hub first."
        )


def _exposed(index: GalleryIndex, target: Target) -> str:
    """Return what others will be able to read, as a list."""
    manifest = index.manifest
    items = pq.read_table(index.snapshot / ITEMS, columns=[*TEXTS])
    ids = ", ".join(printable(each) for each in items["id"][:EXAMPLES].to_pylist())
    vectors = ", ".join(f"{name} ({manifest.dimensions(name):,} numbers)" for name in index.features)
    who = "everyone" if target.public else f"those who may read private datasets of {target.repo.split('/')[0]!r}"
    return "\n".join(
        [
            f"{addresses.HUB}{target.repo} will be {'PUBLIC' if target.public else 'private'}: {who} can read",
            f"  - {len(index):,} thumbnails of the gallery {manifest.gallery!r}, at most 256 pixels",
            f"  - their ids, which hold the names of files or rows, such as {ids}",
            f"  - {_counted(items['caption'], 'captions')} and {_counted(items['label'], 'labels')}",
            f"  - {_counted(items['author'], 'authors')} and {_counted(items['license'], 'licences')}",
            f"  - their size in pixels, and their vectors, {vectors}, from which an image can be roughly reconstructed",
            f"  - the name of the model, {manifest.model.title}, and when the index was built",
            "What was published earlier stays in the history of the dataset.",
        ]
    )


def _counted(column: pa.ChunkedArray, what: str) -> str:
    texts = column.filter(pc.not_equal(column, ""))
    return f"{len(texts):,} {what} ({len(texts.unique()):,} different)" if len(texts) else f"no {what}"


def _write_shards(index: GalleryIndex, folder: Path) -> Iterator[Shard]:
    """Write the Parquet files and yield each one; only a row group is in memory."""
    dimensions = {name: index.manifest.dimensions(name) for name in index.features}
    schema = schema_of(dimensions)
    items = pq.read_table(index.snapshot / ITEMS)
    in_shard = rows_within(SHARD_ROWS, SHARD_BYTES, dimensions)
    in_group = rows_within(GROUP_ROWS, GROUP_BYTES, dimensions)
    options = {"write_page_checksum": True, "write_page_index": True, "use_content_defined_chunking": True}
    for number, start in enumerate(range(0, len(index), in_shard)):
        path = folder / shard_name(number)
        path.parent.mkdir(exist_ok=True)
        end = min(start + in_shard, len(index))
        with pq.ParquetWriter(path, schema, compression="zstd", **options) as writer:
            for first in range(start, end, in_group):
                writer.write_table(_rows(index, items, slice(first, min(first + in_group, end)), schema))
        yield Shard(shard_name(number), end - start, path.stat().st_size, digest_of(path))


def _rows(index: GalleryIndex, items: pa.Table, part: slice, schema: pa.Schema) -> pa.Table:
    some = items[part]
    checksums = enumerate(some["thumbnail_crc"].to_pylist(), start=part.start)
    pictures = [{"bytes": _thumbnail(index, at, crc), "path": f"{at:06d}.jpg"} for at, crc in checksums]
    columns: dict[str, object] = {"image": pa.array(pictures, schema.field("image").type)}
    columns |= {name: some[name] for name in (*TEXTS, *NUMBERS)}
    for name in index.features:
        numbers = pa.array(index.vectors(name)[part].reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(numbers, type=schema.field(name).type)
    return pa.table(columns, schema)


def _thumbnail(index: GalleryIndex, position: int, crc: int) -> bytes:
    path = index.thumbnail(position)
    try:
        content = path.read_bytes()
        damaged = zlib.crc32(content) != crc
    except OSError:
        damaged = True
    if damaged:
        raise IndexingError(
            f"The thumbnail {path.name} in `{index.snapshot}` is damaged. Make it again: "
            f"`{rebuild_command(index.snapshot.parent)}`"
        )
    return content


def _license(index: GalleryIndex) -> str:
    """Return the Hub's id of the licence of all items, or `OTHER_LICENSE`."""
    named = pq.read_table(index.snapshot / ITEMS, columns=["license"])["license"].unique().to_pylist()
    known = {*LICENSES, *(f"{kind}-{version}" for kind in CREATIVE_COMMONS for version in VERSIONS)}
    only = named[0].lower().replace(" ", "-")
    return only if len(named) == 1 and only in known else OTHER_LICENSE


def _card(manifest: PublishedManifest, target: Target, license: str) -> str:
    """Return the text of the dataset's card."""
    data = DatasetCardData(
        license=license,
        pretty_name=printable(manifest.gallery),
        tags=["image-search", "lookalike"],
        size_categories=[next((size for most, size in SIZES.items() if manifest.pictures < most), "n>1M")],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
    )
    features = "\n".join(
        f"| `{name}` | {FEATURES[name].title} | {each.name} | {each.revision} | {each.dimensions:,} |"
        for name, each in manifest.features.items()
    )
    return f"""---
{data.to_yaml()}
---

# {printable(manifest.gallery)}

An index for image search: {manifest.pictures:,} images as thumbnails, with their captions and labels and the vectors
that they are compared by. It was made by Lookalike at {manifest.created}.

Search it, without embedding the images again:

```sh
python app.py --index {addresses.HUB}{target.repo}
```

Read it:

```python
from datasets import load_dataset

rows = load_dataset("{target.repo}", split="train")
```

| column | features | model | revision | numbers |
|---|---|---|---|---|
{features}

The other columns are `image` (the thumbnail), `id`, `label`, `caption`, the `author` and `license` of each image where
they are known, and the `width` and `height` of the original image in pixels.
"""
