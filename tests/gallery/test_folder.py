"""Folders as people have them: every file is accounted for, and each image has the label of its folder."""

import io
import json
import os
import subprocess
import sys
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pillow_heif import register_heif_opener

from retrieval.errors import GalleryError, PictureError
from retrieval.gallery.rows import Gallery
from retrieval.gallery.source import GallerySource, Stamp
from retrieval.pictures.loading import load_picture
from tests.support.paths import CASES, ROOT

register_heif_opener()  # so that Pillow can write such files here

KINDS = {".jpg": "JPEG", ".JPG": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".avif": "AVIF", ".heic": "HEIF"}


def encoded(kind="PNG", shade=0):
    file = io.BytesIO()
    Image.new("RGB", (12, 9), (shade, 255 - shade, 128)).save(file, kind)
    return file.getvalue()


ENCODED = {suffix: encoded(kind) for suffix, kind in KINDS.items()}


def write(folder, *files, data=None):
    """Write files below a folder, given by their relative paths: images by suffix, otherwise a text."""
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ENCODED.get(path.suffix, b"a text") if data is None else data)
    return folder


def opened(folder, **chosen):
    return Gallery(GallerySource(str(folder), **chosen))


def labels(folder, **chosen):
    """Return the label of each item by its id."""
    return {item.id: item.label for item in opened(folder, **chosen).items()}


def account(folder, **chosen):
    """Return the numbers of images indexed, skipped and ignored, and of the labels of those indexed."""
    gallery, found, skipped = opened(folder, **chosen), Counter(), 0
    for item in gallery.items():
        try:
            load_picture(item.read())
        except PictureError:
            skipped += 1
        else:
            found[item.label] += 1
    return found.total(), skipped, sum(gallery.ignored.values()), dict(found)


def write_classes(folder, suffix=".jpg"):
    return write(folder, *(f"{name}/{number}{suffix}" for name in ("cat", "dog") for number in range(2)))


CLASSES = {"cat": 2, "dog": 2}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["loose.jpg"], (5, 0, 0, CLASSES | {"": 1})),
        (["cat/kittens/young/1.jpg"], (5, 0, 0, CLASSES | {"young": 1})),
        (["cat/1.heic", "cat/2.avif", "cat/3.jfif", "cat/4.JPG"], (8, 0, 0, {"cat": 6, "dog": 2})),
        (["rest.zip", "dog/notes.txt", "README", "film.mp4", "cat/raw.CR2"], (4, 0, 5, CLASSES)),
        (["@eaDir/0.jpg/SYNO_THUMB.jpg", "cat/@eaDir/1.jpg", ".thumbnails/1.jpg", "Thumbs.db"], (4, 0, 0, CLASSES)),
        ([".DS_Store", "cat/._0.jpg", ".git/1.jpg", "cat/.hidden.png"], (4, 0, 0, CLASSES)),
        (["train/1.jpg", "bullet_train/1.jpg"], (6, 0, 0, CLASSES | {"train": 1, "bullet_train": 1})),
    ],
)
def test_every_file_is_accounted_for_and_labels_are_folders(tmp_path, more, expected):
    assert account(write(write_classes(tmp_path), *more)) == expected


def test_damaged_files_are_skipped(tmp_path):
    write(write_classes(tmp_path), "empty.jpg", "cat/empty.heic", data=b"")
    write(tmp_path, "page.jpg", "dog/page.avif", data=b"<html>")
    write(tmp_path, "cut.png", "dog/cut.png", data=ENCODED[".png"][:45])
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    assert account(tmp_path) == (4, 8, 0, CLASSES)


def test_programs_output_of_img2dataset(tmp_path):
    for number in range(3):
        write(tmp_path, f"00000/{number:09}.jpg", f"00000/{number:09}.txt")
        text = json.dumps({"caption": f"image\n{number}", "key": str(number), "alt": "other"})
        write(tmp_path, f"00000/{number:09}.json", data=text.encode())
    write(tmp_path, "00000_stats.json", data=b'{"count": 3}')
    texts = pa.table({"url": ["https://example.com/0.jpg"] * 3, "caption": ["0", "1", "2"]})
    pq.write_table(texts, tmp_path / "00000.parquet")
    assert account(tmp_path) == (3, 0, 8, {"00000": 3})
    assert opened(tmp_path).ignored == {".json": 4, ".txt": 3, ".parquet": 1}
    assert [item.caption for item in opened(tmp_path).items()] == ["image 0", "image 1", "image 2"]
    assert {item.caption for item in opened(tmp_path, caption_column="alt").items()} == {"other"}
    before = opened(tmp_path).fingerprint
    write(tmp_path, "00000/000000001.json", data=b"no json")
    assert [item.caption for item in opened(tmp_path).items()] == ["image 0", "000000001", "image 2"]
    assert opened(tmp_path).fingerprint != before


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """The folders that the program beside the project writes, with their expected contents."""
    if not CASES.is_dir():
        pytest.skip(f"{CASES.relative_to(ROOT.parent)} is not on this machine")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, CASES / "make_folders.py", folder], check=True, capture_output=True)
    return folder


def test_all_given_cases_come_out_as_expected(cases):
    expected = json.loads((cases / "expected.json").read_text())
    found = {name: dict(zip(expected[name], account(cases / name), strict=True)) for name in expected}
    assert found == expected


NAMES = st.sampled_from(["cat", "a b", "é", "[x] *", "@eaDir", ".git", "test", "x.jpg", "a\nb", "\\", "-rf", "C:"])
FILES = st.sampled_from(["0.jpg", "1.HEIC", "2.png", "notes.txt", "none", ".x.jpg", "Thumbs.db", "a.tar.gz", "0.json"])
TREES = st.dictionaries(
    st.tuples(st.lists(NAMES, max_size=3).map(tuple), FILES), st.sampled_from(["good", "bad"]), min_size=1, max_size=12
)


@settings(max_examples=60)
@given(tree=TREES)
@example(tree={(("@eaDir",), "0.jpg"): "good", (("test",), "0.jpg"): "good"})
def test_counts_add_up_in_any_folder(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("tree")
    indexed, skipped, ignored, uncounted, tops = Counter(), 0, Counter(), 0, set()
    for (parents, name), state in tree.items():
        path = "/".join((*parents, name))
        write(folder, path, data=ENCODED[".png"] if state == "good" else b"bad")
        suffix = Path(name).suffix.lower()
        if any(part.startswith(".") or part in ("@eaDir", "Thumbs.db") for part in (*parents, name)):
            uncounted += 1
        elif suffix not in (".jpg", ".heic", ".png"):
            ignored[suffix] += 1
        else:
            tops.add(parents[:1])
            if state == "bad":
                skipped += 1
            else:
                indexed[parents[-1] if parents else ""] += 1
    if not indexed and not skipped:
        with pytest.raises(GalleryError, match="neither images nor Parquet"):
            opened(folder)
        return
    if tops != {("test",)}:  # otherwise `test` is a split
        assert account(folder) == (indexed.total(), skipped, ignored.total(), dict(indexed))
    gallery = opened(folder)
    assert indexed.total() + skipped + ignored.total() + uncounted == len(tree)
    assert gallery.ignored == ignored
    assert bool(uncounted) is bool(gallery.notes)
    assert gallery.total == indexed.total() + skipped
    assert [item.id for item in gallery.items()] == sorted((item.id for item in gallery.items()), key=os.fsencode)


def test_notes_name_what_is_not_counted(tmp_path):
    write(write_classes(tmp_path), ".DS_Store", "cat/.x\x1b[31m.jpg", "dog/Thumbs.db", "@eaDir/x.jpg")
    write(tmp_path, "metadata.jsonl", data=b"")
    write(tmp_path, *(f".hidden{number}" for number in range(6)))
    assert opened(tmp_path).notes == [
        "Hidden files and folders: `.DS_Store`, `.hidden0`, `.hidden1`, `.hidden2`, `.hidden3` and 3 more.",
        "Metadata files: `metadata.jsonl`.",
        "Thumbnails of other programs: `@eaDir`, `dog/Thumbs.db`.",
        "`metadata.jsonl` was not used, since it has no column `file_name`.",
    ]


def test_folders_that_cannot_be_read_are_named(tmp_path):
    inner = os.open(write_classes(tmp_path), os.O_RDONLY)
    for _ in range(20):  # until the path is longer than the system allows
        os.mkdir("x" * 250, dir_fd=inner)
        outer, inner = inner, os.open("x" * 250, os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)
    assert account(tmp_path) == (4, 0, 0, CLASSES)
    [note] = opened(tmp_path).notes
    assert note.startswith("Folders that cannot be read: `xxx")
    assert note.endswith("(File name too long)`.")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, ["", "cat", "young", "dog"]),
        ({"labels": "top"}, ["", "cat", "cat", "dog"]),
        ({"labels": "none"}, ["", "", "", ""]),
    ],
)
def test_labels_are_the_nearest_or_the_top_folder_or_none(tmp_path, chosen, expected):
    files = ["a.png", "cat/a.png", "cat/young/a.png", "dog/a.png"]
    write(tmp_path / "plain", *files)
    assert list(labels(tmp_path / "plain", **chosen).values()) == expected
    write(tmp_path / "split" / "train", "cat/a.png", "cat/young/a.png", "dog/a.png")
    assert list(labels(tmp_path / "split", **chosen).values()) == expected[1:]
    assert opened(tmp_path / "plain", **chosen).labelled is any(expected)


def test_splits_that_a_build_leaves_out_are_named(tmp_path):
    write(tmp_path, "train/cat/0.png", "test/cat/0.png", "test/dog/0.png", "val/0.png", "notes.txt")
    gallery = opened(tmp_path)
    assert labels(tmp_path) == {"train/cat/0.png": "cat"}
    assert labels(tmp_path, split="test+val") == {"test/cat/0.png": "cat", "test/dog/0.png": "dog", "val/0.png": ""}
    assert gallery.notes == [
        "Left out, since the split is `train`: test (2), val (1). Choose with `--split`.",
        "`--split` and `--limit` select 1 of 4 images.",
    ]
    assert len(labels(tmp_path, split="all")) == 4
    assert opened(tmp_path, split="all").notes == []
    with pytest.raises(GalleryError, match=r"no split 'dev'.*test, train, val"):
        opened(tmp_path, split="dev")


METADATA = {"metadata.csv": "csv", "metadata.jsonl": "jsonl", "metadata.parquet": "parquet"}


def write_metadata(path, rows):
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    else:
        lines = [table.column_names, *([str(row[name]) for name in table.column_names] for row in rows)]
        path.write_text("\ufeff" + "".join(",".join(f'"{value}"' for value in line) + "\n" for line in lines))


@pytest.mark.parametrize("name", METADATA)
def test_metadata_adds_captions_and_labels_and_removes_nothing(tmp_path, name):
    write_classes(tmp_path)
    rows = [
        {"file_name": "cat/0.jpg", "n": 5, "text": "two\nlines", "label": "tom", "author": "Ann", "license": "CC0"},
        {"file_name": "./dog/../cat/1.jpg", "n": 6, "text": "second", "label": "", "author": "", "license": ""},
        {"file_name": "../outside.jpg", "n": 7, "text": "x", "label": "x", "author": "", "license": ""},
    ]
    write_metadata(tmp_path / name, rows)
    first, second, *others = opened(tmp_path).items()
    assert (first.label, first.caption, first.author, first.license) == ("tom", "two lines", "Ann", "CC0")
    assert (second.label, second.caption) == ("cat", "second")
    assert [(item.id, item.label, item.caption) for item in others] == [
        ("dog/0.jpg", "dog", "0"),
        ("dog/1.jpg", "dog", "1"),
    ]
    assert account(tmp_path) == (4, 0, 0, {"tom": 1, "cat": 1, "dog": 2})
    assert opened(tmp_path).notes[-1] == f"1 of 3 rows of `{name}` name no image here."
    assert next(opened(tmp_path, caption_column="n").items()).caption == "5"
    assert set(labels(tmp_path, labels="none").values()) == {""}
    with pytest.raises(GalleryError, match=r"no column 'colour'.*author, .*text"):
        opened(tmp_path, caption_column="colour")
    before = opened(tmp_path).fingerprint
    write_metadata(tmp_path / name, rows[:1])
    assert opened(tmp_path).fingerprint != before


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("metadata.csv", b"file_name,text\ncat/0.jpg,\xff\xfe"),
        ("metadata.csv", b"name,text\ncat/0.jpg,x\n"),
        ("metadata.jsonl", b'{"file_name": "cat/0.jpg", "text": '),
        ("metadata.jsonl", b"[" * 100_000),
        ("metadata.jsonl", b"[1]\n7\nnull\n"),
        ("metadata.parquet", b"PAR1 no parquet PAR1"),
    ],
)
def test_unusable_metadata_does_no_harm_and_is_named(tmp_path, name, data):
    write(write_classes(tmp_path), name, data=data)
    assert account(tmp_path) == (4, 0, 0, CLASSES)
    assert opened(tmp_path).notes[-1].startswith(f"`{name}` was not used, since ")


def repeated(count, text):
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))


@pytest.mark.endurance
def test_metadata_of_very_many_rows_fits_in_memory(tmp_path):
    """A few kilobytes of Parquet can stand for gigabytes of rows."""
    rows = 60_000
    write_classes(tmp_path)
    table = pa.table(
        {"file_name": repeated(rows, "elsewhere.jpg"), **{f"text{n}": repeated(rows, "x") for n in range(8)}}
    )
    pq.write_table(table, tmp_path / "metadata.parquet")
    del table
    assert (tmp_path / "metadata.parquet").stat().st_size < 50_000
    tracemalloc.start()
    *_, note = opened(tmp_path).notes
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert note == "60,000 of 60,000 rows of `metadata.parquet` name no image here."
    assert peak < 10 * 2**20  # all rows take 24 MB


def test_metadata_with_a_huge_repeated_text_is_not_read(tmp_path):
    write_classes(tmp_path)
    pq.write_table(pa.table({"file_name": repeated(10_000, "x" * 300_000)}), tmp_path / "metadata.parquet")
    assert opened(tmp_path).notes[-1].endswith("a text in its column 'file_name' is longer than 262,144 bytes.")


def test_metadata_that_is_a_pipe_or_huge_is_not_read(tmp_path):
    os.mkfifo(write_classes(tmp_path) / "metadata.csv")
    os.mkfifo(tmp_path / "cat" / "0.json")
    write(tmp_path, "metadata.jsonl", data=b"")
    os.truncate(tmp_path / "metadata.jsonl", 40 * 2**30)
    assert account(tmp_path) == (4, 0, 1, CLASSES)
    assert [note.split(", since ")[-1] for note in opened(tmp_path).notes[1:]] == [
        "it cannot be read: it is not a regular file.",
        "it cannot be read: it is larger than 1,024 MB.",
    ]


def test_linked_folders_are_followed_once_each(tmp_path):
    write(tmp_path / "far", "owl/0.png", "owl/deep/0.png")
    folder = write(tmp_path / "set", "cat/0.png")
    (folder / "birds").symlink_to(tmp_path / "far")
    (folder / "a-second-time").symlink_to(tmp_path / "far" / "owl")
    (folder / "before-cat").symlink_to("cat")
    (folder / "cat" / "up").symlink_to("..")
    (folder / "cat" / "over").symlink_to(tmp_path)
    (tmp_path / "far" / "owl" / "back").symlink_to(folder)
    assert labels(folder) == {
        "a-second-time/0.png": "a-second-time",
        "a-second-time/deep/0.png": "deep",
        "cat/0.png": "cat",
    }
    assert opened(folder).notes == [
        "Folders that links reach more than once, read only once: `a-second-time/back`, `before-cat`, `birds/owl`, "
        "`cat/over`, `cat/up`."
    ]


def test_a_folder_of_nothing_but_linked_folders(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("cat", "dog"):
        (folder / name).symlink_to(write(tmp_path / f"{name}s-elsewhere", "0.png", "1.heic"))
    assert account(folder) == (4, 0, 0, CLASSES)


def test_a_picture_replaced_by_a_link_after_the_walk_is_not_followed(tmp_path):
    secret = write(tmp_path, "secret.png") / "secret.png"
    folder = write_classes(tmp_path / "set", ".png")
    (folder / "linked.png").symlink_to(secret)
    items = {item.id: item for item in opened(folder).items()}
    assert items["linked.png"].read() == ENCODED[".png"]  # a link that the walk has resolved
    (folder / "cat" / "0.png").unlink()
    (folder / "cat" / "0.png").symlink_to(secret)
    with pytest.raises(PictureError, match="cannot be read"):
        items["cat/0.png"].read()


def test_pipes_and_huge_files_named_like_pictures_are_skipped_unread(tmp_path):
    write_classes(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "sparse.png").touch()
    os.truncate(tmp_path / "sparse.png", 40 * 2**30)
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    assert account(tmp_path) == (4, 3, 0, CLASSES)
    assert [item.id for item in opened(tmp_path).items() if item.stamp is None] == ["device.jpg", "pipe.png"]


@pytest.mark.parametrize("suffix", [".tar", ".parquet", ".json"])
def test_pipes_named_like_other_layouts_are_ignored(tmp_path, suffix):
    os.mkfifo(tmp_path / f"0{suffix}")
    with pytest.raises(GalleryError, match="neither images nor Parquet"):
        opened(tmp_path)
    assert account(write(tmp_path, "0.png")) == (1, 0, 1, {"": 1})


def test_names_that_are_not_utf8_or_contain_controls(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(folder)).mkdir()
    for name in (b"\xff.png", b"a\nb\x1b.png", b"notes.t\xff"):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(ENCODED[".png"])
    Path(os.fsdecode(folder + b"/.\x1b\xff")).touch()
    gallery = opened(tmp_path)
    items = list(gallery.items())
    assert [(item.id, item.label, item.caption) for item in items] == [
        ("caf\\xe9/a\nb\x1b.png", "caf\\xe9", "a b\x1b"),
        ("caf\\xe9/\\xff.png", "caf\\xe9", "\\xff"),
    ]
    assert [item.read() for item in items] == [ENCODED[".png"]] * 2
    assert [item.stamp.path for item in items] == [item.id for item in items]
    assert gallery.notes == ["Hidden files and folders: `caf\\xe9/.\\x1b\\xff`."]
    json.dumps([gallery.ignored, gallery.fingerprint]).encode()
    pa.array([item.id for item in items])
    Path(os.fsdecode(folder + b"/\xff.png")).write_bytes(b"")
    with pytest.raises(PictureError) as error:
        load_picture(items[1].read())
    str(error.value).encode()
    Path(os.fsdecode(folder + b"/\xff.png")).unlink()
    with pytest.raises(PictureError) as error:
        items[1].read()
    str(error.value).encode()


def test_items_read_lazily_and_have_stamps(tmp_path):
    write_classes(tmp_path)
    item = next(opened(tmp_path).items())
    state = (tmp_path / "cat" / "0.jpg").stat()
    assert item.stamp == Stamp("cat/0.jpg", state.st_size, state.st_mtime_ns)
    (tmp_path / "cat" / "0.jpg").write_bytes(b"changed")
    assert item.read() == b"changed"
    assert next(opened(tmp_path).items()).stamp != item.stamp


def test_only_what_determines_the_items_changes_the_fingerprint(tmp_path):
    write_classes(tmp_path)
    fingerprint = opened(tmp_path).fingerprint
    write(tmp_path, "notes.txt", ".hidden.jpg", "@eaDir/x.jpg")
    assert opened(tmp_path).fingerprint == fingerprint
    assert opened(tmp_path, labels="top").fingerprint != fingerprint
    write(tmp_path, "cat/2.jpg")
    assert opened(tmp_path).fingerprint != fingerprint


def test_a_folder_is_never_streamed(tmp_path):
    write_classes(tmp_path)
    assert opened(tmp_path, streaming=True).total == 4
    assert labels(tmp_path, streaming=True, split="train[1:3]", limit=1) == {"cat/1.jpg": "cat"}


def test_error_names_the_types_of_files_that_are_there(tmp_path):
    write(tmp_path, "a.txt", "b.txt", "c.mp4", "none")
    with pytest.raises(GalleryError, match=r"It has 2 \.txt, 1 without suffix, 1 \.mp4\. Put images"):
        opened(tmp_path)


# Other layouts


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write_table(path, *shades, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": encoded(shade=shade), "path": f"{shade}.png"} for shade in shades]
    pq.write_table(pa.table({"image": images, **columns}), path)
    return path


def shades(folder, **chosen):
    return [load_picture(item.read()).getpixel((0, 0))[0] for item in opened(folder, **chosen).items()]


def test_no_parquet_file_disappears(tmp_path):
    write_table(tmp_path / "set" / "train.parquet", 1, 2)
    write_table(tmp_path / "set" / "MORE.PARQUET", 3)
    write_table(tmp_path / "set" / "deep" / "er" / "x.parquet", 4)
    pq.write_table(pa.table({"n": [1]}), tmp_path / "set" / "numbers.parquet")
    write(tmp_path / "set", "0.png", "notes.txt")
    assert sorted(shades(tmp_path / "set")) == [1, 2, 3, 4]
    assert shades(tmp_path / "set" / "MORE.PARQUET") == [3]
    gallery = opened(tmp_path / "set")
    assert gallery.ignored == {".parquet": 1, ".txt": 1}
    assert gallery.notes == ["Image files, read only if a row of a Parquet file names them: 1."]
    write_table(tmp_path / "set" / "test.parquet", 5)
    assert sorted(shades(tmp_path / "set")) == [1, 2, 3, 4]
    assert "Left out, since the split is `train`: test." in opened(tmp_path / "set").notes[-1]


def test_a_damaged_parquet_file_is_named(tmp_path):
    write_table(tmp_path / "set" / "a.parquet", 1)
    write(tmp_path / "set", "b\x1b.parquet", data=b"PAR1 cut")
    with pytest.raises(GalleryError, match=r"Parquet file `b\\x1b\.parquet`.*Replace it or remove it"):
        opened(tmp_path / "set")
    write_classes(tmp_path / "pictures")
    write(tmp_path / "pictures", "b.parquet", data=b"PAR1 cut")
    assert account(tmp_path / "pictures") == (4, 0, 1, CLASSES)


@pytest.mark.parametrize("form", ["struct", "text"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_parquet_file_may_name_pictures_beside_it(tmp_path, monkeypatch, form, whole):
    folder = write(tmp_path / "set", "pictures/0.png", "1.png")
    write(tmp_path, "secret.png")
    write(tmp_path / "elsewhere", "1.png", "pictures/0.png", data=b"canary")
    monkeypatch.chdir(tmp_path / "elsewhere")  # a relative path does not start here
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    named = ["1.png", "pictures/0.png", "../secret.png", "link.png", "pictures/../1.png", "gone.png"]
    column = named if form == "text" else [{"bytes": None, "path": name} for name in named]
    pq.write_table(pa.table({"image": column, "label": list("abcdef")}), folder / "rows.parquet")
    if form == "text" and whole:
        (folder / "1.png").rename(folder / "pictures" / "1.png")
        assert opened(folder).ignored == {".parquet": 1}  # a table of texts beside images, which are all read
        return
    one, zero, outside, link, same, gone = opened(folder if whole else folder / "rows.parquet").items()
    assert [each.read() for each in (one, zero, same)] == [ENCODED[".png"]] * 3
    assert [each.label for each in (one, gone)] == ["a", "f"]
    for refused in (outside, link):
        with pytest.raises(PictureError, match="outside the dataset"):
            refused.read()
    with pytest.raises(PictureError, match="No such file"):
        gone.read()


def test_a_name_beside_two_parquet_files_is_ambiguous(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder, "same.png", f"{folder}.png")
        rows = [{"bytes": None, "path": name} for name in ("same.png", f"{folder}.png")]
        pq.write_table(pa.table({"image": rows}), tmp_path / folder / "rows.parquet")
    same, a, _, b = opened(tmp_path).items()
    assert a.read() == b.read() == ENCODED[".png"]
    with pytest.raises(PictureError, match="several of the Parquet files"):
        same.read()


def write_shard(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("whole", [False, True])
def test_webdataset_shards(tmp_path, whole):
    for shard in range(2):
        files = {}
        for number, suffix in enumerate((".jpg", ".heic")):
            key = f"{shard}{number}"
            more = {"caption": f"image {key}", "alt": "other", "license": "CC0"}
            files |= {f"{key}{suffix}": ENCODED[suffix], f"{key}.json": json.dumps(more).encode()}
            files |= {f"{key}.cls": str(number).encode(), ".hidden.jpg": b"", "__MACOSX.jpg": b""}
        write_shard(tmp_path / "set" / f"0000{shard}.tar", files)
    pq.write_table(pa.table({"url": ["u"], "caption": ["text"]}), tmp_path / "set" / "00000.parquet")
    folder = tmp_path / "set" if whole else tmp_path / "set" / "00000.tar"
    gallery = opened(folder, streaming=True)
    items = list(gallery.items())
    ids = ["00000.tar/00.jpg", "00000.tar/01.heic", "00001.tar/10.jpg", "00001.tar/11.heic"]
    assert [item.id for item in items] == ids[: None if whole else 2]
    assert [(item.label, item.caption, item.license) for item in items[:2]] == [
        ("0", "image 00", "CC0"),
        ("1", "image 01", "CC0"),
    ]
    assert gallery.ignored == ({".parquet": 1} if whole else {})
    assert account(folder)[:2] == (len(items), 0)
    assert {item.caption for item in opened(folder, caption_column="alt").items()} == {"other"}
    assert len(labels(folder, image_column="heic")) == len(items) / 2
    assert labels(folder, labels="none", limit=1) == {"00000.tar/00.jpg": ""}


def test_splits_and_folders_in_shards(tmp_path):
    write_shard(tmp_path / "set" / "train-0.tar", {"cat/0.png": ENCODED[".png"], "0.png": b"", "cat/0.txt": b"tom"})
    write_shard(tmp_path / "set" / "test-0.tar", {"dog/0.png": ENCODED[".png"]})
    assert labels(tmp_path / "set") == {"train-0.tar/cat/0.png": "cat", "train-0.tar/0.png": ""}
    assert [item.caption for item in opened(tmp_path / "set").items()] == ["tom", "0"]
    assert account(tmp_path / "set") == (1, 1, 0, {"cat": 1})
    assert opened(tmp_path / "set").notes[0].startswith("Left out, since the split is `train`: test (1).")
    assert account(tmp_path / "set", split="test[:1]") == (1, 0, 0, {"dog": 1})
    with pytest.raises(GalleryError, match="no images in split"):
        opened(tmp_path / "set", image_column="avif")


def test_members_of_shards_are_read_only_if_they_are_files_of_a_possible_size(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.png").write_bytes(ENCODED[".png"])
    with (tmp_path / "set" / "0.tar").open("wb") as file:
        for name, kind, size in [
            ("pipe.png", tarfile.FIFOTYPE, 0),
            ("link.png", tarfile.SYMTYPE, 0),
            ("hard.png", tarfile.LNKTYPE, 0),
            ("../secret.png", tarfile.REGTYPE, 4),
            ("huge.png", tarfile.REGTYPE, 40 * 2**30),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, size, str(tmp_path / "secret.png")
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            file.seek(-(-size // 512) * 512, os.SEEK_CUR)
        file.write(bytes(1024))
    for item in opened(tmp_path / "set").items():
        with pytest.raises(PictureError, match=r"limit is 64 MB|not a regular file|not an image"):
            load_picture(item.read())
    assert account(tmp_path / "set") == (0, 5, 0, {})


def test_a_damaged_shard_is_reported(tmp_path):
    write(tmp_path / "set", "00000.tar", data=b"no archive" * 100)
    with pytest.raises(GalleryError, match=r"00000\.tar"):
        opened(tmp_path / "set" / "00000.tar")
    with pytest.raises(GalleryError, match=r"archive `00000\.tar` cannot be read.*Replace it"):
        opened(tmp_path / "set")


def test_damaged_pages_are_reported_with_the_name_of_their_file(tmp_path):
    write_table(tmp_path / "set" / "good.parquet", 1, 2)
    data = bytearray(write_table(tmp_path / "set" / "worse.parquet", 3, 4).read_bytes())
    data[4:100] = b"\xff" * 96
    write(tmp_path / "set", "worse.parquet", data=data)
    with pytest.raises(GalleryError, match=r"worse\.parquet` cannot be read.*Replace it"):
        opened(tmp_path / "set")


def test_parquet_files_that_a_readme_does_not_name_are_reported(tmp_path):
    write_table(tmp_path / "set" / "a.parquet", 1)
    write_table(tmp_path / "set" / "b.parquet", 2)
    card = "---\nconfigs:\n- config_name: default\n  data_files: a.parquet\n---\n"
    write(tmp_path / "set", "README.md", data=card.encode())
    assert shades(tmp_path / "set") == [1]
    assert opened(tmp_path / "set").notes == ["Not read, since the README does not name them: `b.parquet`."]
    write(tmp_path / "set", "README.md", data=b"---\nconfigs: [\n---\n")
    with pytest.raises(GalleryError, match="cannot be read"):
        opened(tmp_path / "set")


def test_a_state_of_another_program_is_no_saved_dataset(tmp_path):
    assert account(write(write_classes(tmp_path), "state.json")) == (4, 0, 1, CLASSES)
