"""All dataset formats give the same items, and those that cannot be read give a clear error."""

import io
import json
import os
import shutil
import socket
import tarfile
import zipfile
from itertools import islice

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from retrieval.errors import GalleryError, PictureError
from retrieval.gallery.opening import _only_own_files
from retrieval.gallery.rows import Gallery
from retrieval.gallery.source import BUNDLED_GALLERIES, GallerySource
from retrieval.pictures.loading import load_picture
from tests.support.loopback_hub import LoopbackHub
from tests.support.paths import ROOT

CLASSES = ("bullet_train", "cat", "test")  # the library `datasets` would take the first and the last for splits
LABELS = [name for name in CLASSES for _ in range(2)]
NAMES = ["0", "1"] * 3
SLICE = {"split": "train[1:3]"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(shade):
    file = io.BytesIO()
    Image.new("RGB", (12, 9), (shade, 255 - shade, 128)).save(file, "PNG")
    return file.getvalue()


def write_pictures(folder, **shades):
    """Write one picture per keyword to a folder, named by the keyword."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shade in shades.items():
        (folder / f"{name}.png").write_bytes(png(shade))
    return folder


def read(dataset, **chosen):
    gallery = Gallery(GallerySource(str(dataset), **chosen))
    items = list(gallery.items())
    assert list(gallery.items()) == items
    return items


def shade(item):
    return load_picture(item.read()).getpixel((0, 0))[0]


def error_of(item):
    """Return the message of the error that reading an item raises."""
    with pytest.raises(PictureError) as error:
        item.read()
    return str(error.value)


@pytest.fixture
def classes(tmp_path):
    """A folder of three classes with two pictures each; all classes use the same file names."""
    for place, name in enumerate(CLASSES):
        write_pictures(tmp_path / "classes" / name, **{"0": place * 20, "1": place * 20 + 1})
    return tmp_path / "classes"


@pytest.fixture
def forms(classes, tmp_path):
    """The same six pictures in every format, each with the options needed to read it."""
    rows = datasets.load_dataset("imagefolder", data_files={"train": f"{classes}/**"}, split="train")
    rows.to_parquet(tmp_path / "datasets.parquet")
    rows.save_to_disk(tmp_path / "disk")
    datasets.DatasetDict({"test": rows.take(1), "train": rows}).save_to_disk(tmp_path / "disks")
    pictures = [file.read_bytes() for file in sorted(classes.rglob("*.png"))]
    structs = [{"bytes": data, "path": f"/home/me/{name}.png"} for name, data in zip(NAMES, pictures, strict=True)]
    pq.write_table(pa.table({"image": structs, "label": LABELS}), tmp_path / "pyarrow [1] *.parquet")
    binary = pa.table({"n": range(6), "jpg": pictures, "kind": LABELS, "title": NAMES})
    pq.write_table(binary, tmp_path / "binary.parquet")
    return {
        "folder": (classes, {}),
        "datasets.parquet": (tmp_path / "datasets.parquet", {}),
        "pyarrow.parquet": (tmp_path / "pyarrow [1] *.parquet", {}),
        "binary.parquet": (tmp_path / "binary.parquet", {"image_column": "jpg", "label_column": "kind"}),
        "save_to_disk": (tmp_path / "disk", {}),
        "save_to_disk of splits": (tmp_path / "disks", {}),
    }


FORMS = ["folder", "datasets.parquet", "pyarrow.parquet", "binary.parquet", "save_to_disk", "save_to_disk of splits"]


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_items(forms, form):
    dataset, columns = forms[form]
    items = read(dataset, **columns)
    assert [item.row for item in items] == list(range(6))
    assert [item.label for item in items] == LABELS
    assert [item.caption for item in items] == NAMES
    assert [shade(item) for item in items] == [0, 1, 20, 21, 40, 41]
    assert len({item.id for item in items}) == 6
    assert not any(item.id.startswith("/") or "home" in item.id for item in items)
    assert read(dataset, streaming=True, **columns) == items
    for streaming in (False, True):
        assert read(dataset, limit=2, streaming=streaming, **columns) == items[:2]
        assert read(dataset, limit=99, streaming=streaming, **columns) == items


def test_ids_of_files_are_their_relative_paths(classes):
    assert [item.id for item in read(classes)] == [f"{name}/{i}.png" for name in CLASSES for i in range(2)]


def test_folders_named_like_splits_become_splits_with_train_as_default(tmp_path):
    for split in ("test", "train"):
        write_pictures(tmp_path / "two" / split / "cat", **{f"{split}-cat": 1})
        write_pictures(tmp_path / "two" / split / "dog", **{f"{split}-dog": 2})
    captions = {split: [item.caption for item in read(tmp_path / "two", split=split)] for split in ("train", "test")}
    assert captions == {"train": ["train-cat", "train-dog"], "test": ["test-cat", "test-dog"]}
    assert [item.label for item in read(tmp_path / "two")] == ["cat", "dog"]
    assert [item.id for item in read(tmp_path / "two")] == ["train/cat/train-cat.png", "train/dog/train-dog.png"]
    assert len(read(tmp_path / "two", split="train+test")) == 4


def test_pictures_next_to_a_folder_named_like_a_split_are_kept(tmp_path):
    write_pictures(write_pictures(tmp_path / "pictures", loose=1) / "test", inside=2)
    assert [item.id for item in read(tmp_path / "pictures")] == ["loose.png", "test/inside.png"]


def test_flat_folder_has_no_labels(tmp_path):
    items = read(write_pictures(tmp_path / "flat", a=1, b=2))
    assert [(item.id, item.label, item.caption) for item in items] == [("a.png", "", "a"), ("b.png", "", "b")]


@pytest.mark.parametrize("streaming", [False, True])
def test_names_may_contain_glob_characters(tmp_path, streaming):
    folder = tmp_path / "my [pics] *"
    write_pictures(folder / "one?", **{"[1] a*": 7})
    write_pictures(folder / "two", **{"{b}": 8})
    items = read(folder, streaming=streaming)
    assert [(item.id, item.label, shade(item)) for item in items] == [
        ("one?/[1] a*.png", "one?", 7),
        ("two/{b}.png", "two", 8),
    ]


def test_metadata_gives_captions_and_labels(tmp_path):
    folder = write_pictures(tmp_path / "captioned", a=1, b=2)
    (folder / "metadata.csv").write_text(
        "file_name,label,note,caption\na.png,red,n1,a  red\nb.png,blue,n2,the blue one\n"
    )
    assert [(item.label, item.caption) for item in read(folder)] == [
        ("red", "a red"),
        ("blue", "the blue one"),
    ]
    assert [item.caption for item in read(folder, caption_column="note")] == ["n1", "n2"]


@pytest.mark.parametrize("form", ["folder", "datasets.parquet"])
def test_slices_of_splits(forms, form):
    dataset, _ = forms[form]
    everything = [shade(item) for item in read(dataset)]
    assert [shade(item) for item in read(dataset, **SLICE)] == everything[1:3]
    assert [shade(item) for item in read(dataset, split="train[50%:]")] == everything[3:]


def test_author_and_licence_of_each_image_are_kept(tmp_path):
    table = pa.table({"image": [{"bytes": png(1), "path": None}], "author": ["Ann"], "license": ["CC0"]})
    pq.write_table(table, tmp_path / "licensed.parquet")
    [item] = read(tmp_path / "licensed.parquet")
    assert (item.author, item.license, item.caption) == ("Ann", "CC0", "")


def test_error_for_a_slice_of_a_stream(forms):
    with pytest.raises(GalleryError, match="--limit"):
        read(forms["datasets.parquet"][0], streaming=True, **SLICE)


def test_fingerprint_depends_on_the_items_but_not_on_streaming(classes):
    def fingerprint(**chosen):
        return Gallery(GallerySource(str(classes), **chosen)).fingerprint

    first = fingerprint()
    assert fingerprint(streaming=True) == first
    assert len({first, fingerprint(limit=2), fingerprint(**SLICE)}) == 3
    write_pictures(classes / "cat", added=99)
    assert fingerprint() != first


@pytest.mark.parametrize(
    ("name", "folder", "caption", "pictures", "classes"),
    [("photos", "assets/photos", "title", 276, 19), ("icons", "assets/gallery", "name", 1566, 95)],
)
def test_bundled_gallery_is_an_ordinary_dataset(monkeypatch, name, folder, caption, pictures, classes):
    monkeypatch.chdir(ROOT)
    rows = datasets.load_dataset(folder, split="train")
    source = GallerySource(folder)
    gallery = Gallery(source)
    assert (source.path, source.slug, source.bundled) == (BUNDLED_GALLERIES[name], name, name)
    assert gallery.total == len(rows) == len(set(rows["id"])) == pictures
    assert len(rows.features["label"].names) == len(set(rows["label"])) == classes
    assert all(rows["author"])
    assert all(rows["license"])
    items = list(islice(gallery.items(), 3))
    assert [(item.id, item.caption) for item in items] == list(zip(rows[:3]["id"], rows[:3][caption], strict=True))
    assert items[0].label == rows.features["label"].names[rows[0]["label"]]
    assert load_picture(items[0].read()).size == rows[0]["image"].size


def test_name_of_a_bundled_gallery_stands_for_its_folder_unless_a_local_folder_has_that_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    named = [GallerySource(name) for name in BUNDLED_GALLERIES]
    assert [source.path for source in named] == list(BUNDLED_GALLERIES.values())
    assert [source.slug for source in named] == ["photos", "icons"]
    (tmp_path / "photos").mkdir()
    own = GallerySource("photos")
    assert (own.path, own.bundled, own.slug) == (tmp_path / "photos", None, "photos")


def write_bad_files(folder):
    """Write a good picture, an empty file, a truncated picture and a text file named `.jpg` to a folder."""
    write_pictures(folder, good=1)
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(png(3)[:45])
    (folder / "text.jpg").write_text("no picture")
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_files_become_items_that_cannot_be_decoded(tmp_path, streaming):
    items = {item.caption: item for item in read(write_bad_files(tmp_path / "spoilt"), streaming=streaming)}
    assert set(items) == {"good", "empty", "cut", "text"}
    assert shade(items.pop("good")) == 1
    assert "is empty" in error_of(items.pop("empty"))
    for item in items.values():
        with pytest.raises(PictureError):
            load_picture(item.read())


def test_deleted_file_becomes_an_item_with_an_error_without_its_path(tmp_path):
    gallery = Gallery(GallerySource(str(write_pictures(tmp_path / "pictures", a=1, b=2))))
    (tmp_path / "pictures" / "a.png").unlink()
    gone, there = islice(gallery.items(), 2)
    assert "No such file" in error_of(gone)
    assert str(tmp_path) not in error_of(gone)
    assert shade(there) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_without_a_picture_become_items_with_an_error(tmp_path, streaming):
    rows = [{"bytes": png(5), "path": None}, None, {"bytes": None, "path": str(tmp_path / "gone.png")}]
    pq.write_table(pa.table({"image": rows}), tmp_path / "holes.parquet")
    good, null, gone = read(tmp_path / "holes.parquet", streaming=streaming)
    assert shade(good) == 5
    assert "no image" in error_of(null)
    assert str(tmp_path) not in gone.id + error_of(gone)


def test_rows_cannot_refer_to_files_or_urls_outside_the_dataset(tmp_path):
    write_pictures(tmp_path, secret=6)
    folder = write_pictures(tmp_path / "set", inside=7)
    with LoopbackHub(tmp_path) as server:
        paths = [
            tmp_path / "secret.png",
            folder / ".." / "secret.png",
            f"{server.url}/secret.png",
            folder / "inside.png",
        ]
        rows = [{"bytes": None, "path": str(path)} for path in paths]
        pq.write_table(pa.table({"image": rows}), folder / "rows.parquet")
        *outside, inside = read(folder / "rows.parquet")
        assert all("outside the dataset" in error_of(item) for item in outside)
        assert not server.requests
    assert shade(inside) == 7


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_are_never_used_as_addresses(tmp_path, streaming):
    write_pictures(tmp_path, secret=6)
    folder = write_pictures(tmp_path / "set", inside=7)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("member.png", png(8))
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.setblocking(False)
        address, inside, outside = canary.getsockname()[1], folder / "inside.png", tmp_path / "secret.png"
        paths = [
            f"{outside}::{inside}",
            f"zip://{outside}::{inside}",
            f"zip://a::zip://b::{folder / 'archive.zip'}",
            f"file://{outside}::{inside}",
            f"ftp://127.0.0.1:{address}/x::{inside}",
            f"sftp://127.0.0.1:{address}/x::{inside}",
            f"ftp://127.0.0.1:{address}/x",
            f"hf://datasets/someone/private@main/x.png::{inside}",
            folder / "link.png",
        ]
        rows = [{"bytes": None, "path": str(path)} for path in [*paths, f"zip://member.png::{folder / 'archive.zip'}"]]
        pq.write_table(pa.table({"image": rows}), folder / "rows.parquet")
        *refused, member = read(folder / "rows.parquet", streaming=streaming)
        assert not any(str(tmp_path) in error_of(item) for item in refused)
        with pytest.raises(BlockingIOError):
            canary.accept()
    assert len(refused) == len(paths)
    assert shade(member) == 8


def test_rows_that_name_pipes_or_huge_files_are_refused_unread(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.zip")
    with tarfile.open(folder / "pipes.tar", "w") as archive:
        member = tarfile.TarInfo("pipe.png")
        member.type = tarfile.FIFOTYPE
        archive.addfile(member)
    (folder / "sparse.png").touch()
    os.truncate(folder / "sparse.png", 40 * 2**30)
    paths = [folder / "pipe.png", folder / "sparse.png"]
    paths += [f"zip://x.png::{folder / 'pipe.zip'}", f"tar://pipe.png::{folder / 'pipes.tar'}"]
    rows = [{"bytes": None, "path": str(path)} for path in paths]
    pq.write_table(pa.table({"image": rows}), folder / "rows.parquet")
    pipe, sparse, *members = read(folder / "rows.parquet")
    assert "not a regular file" in error_of(pipe)
    assert "the limit is 64 MB" in error_of(sparse)
    assert all(map(error_of, members))


def test_symlinks_in_a_folder_are_followed(tmp_path):
    write_pictures(tmp_path / "elsewhere", far=6)
    folder = write_pictures(tmp_path / "set", near=7)
    (folder / "linked.png").symlink_to(tmp_path / "elsewhere" / "far.png")
    assert [(item.id, shade(item)) for item in read(folder)] == [("linked.png", 6), ("near.png", 7)]


@pytest.mark.parametrize("dataset", ["no/such/folder", "/no/folder", "~/no-folder", "../../etc", "http://127.0.0.1/x"])
def test_error_for_missing_paths_and_urls(tmp_path, monkeypatch, dataset):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(GalleryError, match="no such file or folder") as error:
        read(dataset)
    assert dataset in str(error.value)


def test_error_for_folders_without_pictures(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("root")
    monkeypatch.chdir(tmp_path / "a" / "b")
    for dataset in (tmp_path / "a" / "b", "../../etc"):
        with pytest.raises(GalleryError, match="neither images nor Parquet") as error:
            read(dataset)
        assert str(dataset) in str(error.value)


def damage(parquet, wreck):
    data = bytearray(parquet.read_bytes())
    if wreck == "cut":
        del data[len(data) // 2 :]
    elif wreck == "pages":  # the footer still lists rows that are gone
        data[4:300] = b"\xff" * 296
    else:
        data = bytearray(b"just text")
    parquet.write_bytes(data)
    return parquet


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("wreck", ["cut", "pages", "text"])
def test_error_for_damaged_parquet_files(forms, wreck, streaming):
    dataset = damage(forms["datasets.parquet"][0], wreck)
    with pytest.raises(GalleryError, match=r"datasets\.parquet.*(cannot be read|stopped)"):
        read(dataset, streaming=streaming)


def test_error_for_a_file_that_is_not_parquet(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(GalleryError, match="not a Parquet file"):
        read(tmp_path / "table.csv")


def test_error_for_a_saved_dataset_without_its_data(forms):
    dataset, _ = forms["save_to_disk"]
    next(dataset.glob("*.arrow")).unlink()
    with pytest.raises(GalleryError, match="cannot be read"):
        read(dataset)


def test_error_without_an_image_column_lists_the_columns_and_the_flag(forms):
    with pytest.raises(GalleryError, match=r"no image column.*jpg \(binary\).*--image-column"):
        read(forms["binary.parquet"][0])


@pytest.mark.parametrize("meaning", ["image_column", "label_column", "caption_column"])
def test_error_for_an_unknown_column_lists_the_columns(forms, meaning):
    with pytest.raises(GalleryError, match=r"no column 'colour'.*label"):
        read(forms["datasets.parquet"][0], **{meaning: "colour"})


@pytest.mark.parametrize("streaming", [False, True])
def test_error_for_a_numeric_image_column(forms, streaming):
    with pytest.raises(GalleryError, match=r"binary\.parquet"):
        read(forms["binary.parquet"][0], image_column="n", streaming=streaming)


@pytest.mark.parametrize("form", ["folder", "datasets.parquet", "save_to_disk", "save_to_disk of splits"])
def test_error_for_an_unknown_split_lists_the_splits(forms, form):
    with pytest.raises(GalleryError, match=r"no split 'validation'.*train"):
        read(forms[form][0], split="validation")


@pytest.mark.parametrize("split", ["train[5:3]", "train[x", "train+nothing"])
def test_error_for_invalid_slices(classes, split):
    with pytest.raises(GalleryError, match="classes"):
        read(classes, split=split)


def test_one_copy_of_a_changed_dataset_is_kept(forms, tmp_path):
    parquet, _ = forms["datasets.parquet"]
    for seconds in (1, 2):
        os.utime(parquet, ns=(0, seconds * 10**9))
        read(parquet)
    assert len(list((tmp_path / "cache").glob("*/*/parquet"))) == 1


def test_fingerprint_depends_on_the_pictures_that_a_parquet_file_names(tmp_path):
    write_pictures(tmp_path / "one", a=10)
    pq.write_table(pa.table({"image": ["a.png"]}), tmp_path / "one" / "rows.parquet")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "one").symlink_to(tmp_path / "one")
    for dataset, source in ((tmp_path / "one" / "rows.parquet", {}), (tmp_path / "linked", {"image_column": "image"})):
        before = Gallery(GallerySource(str(dataset), **source)).fingerprint
        assert Gallery(GallerySource(str(dataset), **source)).fingerprint == before
        write_pictures(tmp_path / "one", a=20)
        os.utime(tmp_path / "one" / "a.png", ns=(0, len(str(dataset)) * 10**9))
        assert Gallery(GallerySource(str(dataset), **source)).fingerprint != before


@pytest.mark.parametrize("place", ["{secret}/s.parquet", "../secret/s*.parquet", "file://{secret}/s.parquet", "{url}"])
@pytest.mark.parametrize("setting", ["  data_files: {place}\n", "  data_dir: {folder}\n  data_files: '*.parquet'\n"])
@pytest.mark.parametrize("yaml", [False, True])
def test_readme_of_a_dataset_names_only_its_own_files(forms, tmp_path, place, setting, yaml):
    """Other files of this machine stay private, and no URL is fetched."""
    for target in ("set/a.parquet", "secret/s.parquet"):
        (tmp_path / target).parent.mkdir()
        shutil.copy(forms["pyarrow.parquet"][0], tmp_path / target)
    card = "configs:\n- config_name: default\n"
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.setblocking(False)
        place = place.format(secret=tmp_path / "secret", url=f"http://127.0.0.1:{canary.getsockname()[1]}/s.parquet")
        hostile = card + setting.format(place=place, folder=place.rpartition("/")[0])
        (tmp_path / "set" / "README.md").write_text(
            f"---\n{card}  data_files: a.parquet\n---\n" if yaml else f"---\n{hostile}---\n"
        )
        if yaml:
            (tmp_path / "set" / ".huggingface.yaml").write_text(hostile)
        # datasets itself takes a URL in `data_dir` for a folder with an unknown protocol.
        with pytest.raises(GalleryError, match="not inside the dataset" if "data_dir" not in setting else ""):
            read(tmp_path / "set")
        with pytest.raises(BlockingIOError):
            canary.accept()


def test_readme_of_a_dataset_on_the_hub_names_only_its_own_files(tmp_path):
    resolve = datasets.data_files.resolve_pattern
    base = "hf://datasets/org/name@0123456789"
    with _only_own_files("org/name"):
        for pattern in (
            f"{tmp_path}/*.parquet",
            "http://127.0.0.1:1/x.parquet",
            "../../other/name/x.parquet",
            "hf://datasets/org/other@main/x",
        ):
            with pytest.raises(GalleryError, match="not inside the dataset"):
                datasets.data_files.resolve_pattern(pattern, base)
        with pytest.raises(GalleryError, match="not inside the dataset"):
            datasets.data_files.resolve_pattern("*.parquet", f"{base}/../..")
    assert datasets.data_files.resolve_pattern is resolve


def test_saved_dataset_names_only_its_own_files(tmp_path):
    pictures = datasets.Dataset.from_dict(
        {"image": [Image.new("RGB", (9, 9), "red")]}, datasets.Features(image=datasets.Image())
    )
    pictures.save_to_disk(tmp_path / "secret")
    pictures.save_to_disk(tmp_path / "set")
    state = json.loads((tmp_path / "set" / "state.json").read_text())
    state["_data_files"] = [{"filename": "../secret/data-00000-of-00001.arrow"}]
    (tmp_path / "set" / "state.json").write_text(json.dumps(state))
    with pytest.raises(GalleryError, match="is not in its folder"):
        read(tmp_path / "set")


def test_folder_of_parquet_files_with_splits(forms, tmp_path):
    folder = tmp_path / "retrained"
    (folder / "data").mkdir(parents=True)
    for split in ("train", "test"):
        shutil.copy(forms["pyarrow.parquet"][0], folder / "data" / f"{split}-00000-of-00001.parquet")
    assert len(read(folder)) == len(read(folder, split="test")) == 6
    assert Gallery(GallerySource(str(folder))).notes == [
        "Left out, since the split is `train`: test. Choose with `--split`."
    ]
    folder = folder.rename(tmp_path / "odd [1]")
    assert len(read(folder)) == 6
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n---\n")
    with pytest.raises(GalleryError, match="Rename"):
        read(folder)
