"""Images that are small as files and would take minutes or gigabytes to decode; and the processes that decode them."""

import io
import os
import resource
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.errors import PictureError, PictureUnavailable
from retrieval.pictures import decoder
from retrieval.pictures.decoder import CRASHED, LENGTHS, PROCESSES, TOO_SLOW, Decoders
from retrieval.pictures.decoding import FORMATS, MAX_PIXELS, WEB_FORMATS, decode
from retrieval.pictures.loading import read_bytes
from retrieval.pictures.metadata import MAX_SCANS, orientation_of
from retrieval.pictures.worker import _Memory
from tests.support.hostile_pictures import (
    READ,
    files,
    jpeg_with,
    progressive_with_empty_scans,
    repeating_directory,
    small,
)
from tests.support.waiting import wait_until

MEGABYTE = 2**20
MEMORY = 300 * MEGABYTE  # of a decoder that works on 18 MB


@pytest.fixture
def decoders():
    """A pool with one process, so that each image meets the process that decoded the one before."""
    pool = Decoders(1)
    yield pool
    pool.close()


def load(decoders, data, formats=FORMATS):
    return decoders.decode(data, MAX_PIXELS, formats)


def peak(decoders):
    """Return the most memory that the pool's process has ever held, in bytes."""
    [one] = decoders._idle
    status = Path(f"/proc/{one._process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def test_metadata_that_repeats_itself_is_not_copied(decoders):
    exif = repeating_directory(entries=200, size=18 * MEGABYTE, orientation=6)
    loaded = load(decoders, small("WEBP", exif=exif))
    assert loaded.size == (20, 24)  # the orientation is applied all the same
    assert peak(decoders) < MEMORY


@pytest.mark.parametrize("entries", [100, 65_535])
def test_a_tiff_whose_tags_claim_more_than_the_file_is_refused(decoders, entries):
    with pytest.raises(PictureError, match=r"damaged.*Save it again"):
        load(decoders, repeating_directory(entries, size=18 * MEGABYTE))
    assert peak(decoders) < MEMORY


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_such_metadata_of_an_avif_is_refused_and_of_a_heic_not_read(decoders, kind):
    exif = repeating_directory(entries=100, size=2 * MEGABYTE, orientation=6)
    valid = repeating_directory(entries=0, size=len(exif) - 14)
    data = small(kind, exif=valid).replace(valid, exif)
    assert exif in data
    if kind == "HEIF":
        assert load(decoders, data).size == (24, 20)  # upright by its own properties, not by EXIF
    else:
        with pytest.raises(PictureError, match=r"damaged.*Save it again"):
            load(decoders, data)
    assert peak(decoders) < MEMORY


@pytest.mark.parametrize("marker", [0xE1, 0xE2])  # EXIF, and the directory of a stereo image
def test_metadata_of_a_jpeg_is_not_read(decoders, marker):
    block = repeating_directory(entries=1000, size=40_000, orientation=3)
    prefix = b"Exif\0\0" if marker == 0xE1 else b"MPF\0"
    loaded = load(decoders, jpeg_with(marker, prefix + block))
    assert loaded.size == (24, 20)
    assert peak(decoders) < MEMORY / 2


def test_thousands_of_scans_are_refused_before_they_are_decoded(decoders):
    data = progressive_with_empty_scans(20_000)
    with pytest.raises(PictureError, match=rf"more than {MAX_SCANS} scans.*Save it again"):
        load(decoders, data)


def test_an_ordinary_progressive_jpeg_is_decoded(decoders):
    data = small("JPEG", progressive=True)
    assert load(decoders, data).tobytes() == decode(data, MAX_PIXELS).tobytes()


def test_a_file_that_keeps_the_decoder_busy_costs_its_sender_only(decoders):
    comments = b"P3\n1 1\n255\n" + b"#\n" * (9 * MEGABYTE) + b"0 0 0\n"
    with pytest.raises(PictureError, match=TOO_SLOW):
        load(decoders, comments)
    assert load(decoders, small("PNG")).size == (24, 20)  # by a new process


@pytest.mark.parametrize("name", files())
def test_hostile_files_are_read_or_refused_with_a_message(decoders, name):
    sent = files()[name]
    try:
        data = read_bytes(sent.make())
        message = "" if load(decoders, data).mode == "RGB" else "not RGB"
    except PictureError as error:
        message = str(error)
    assert any(expected in message for expected in sent.messages)
    assert bool(message) is (sent.messages != (READ,))


@pytest.mark.parametrize("kind", sorted({*FORMATS} - {*WEB_FORMATS}))
def test_a_public_page_accepts_formats_of_the_web_only(decoders, kind):
    data = small(kind, sizes=[(24, 20)])
    assert load(decoders, data).size == (24, 20)
    with pytest.raises(PictureError, match="Use JPEG, PNG"):
        load(decoders, data, WEB_FORMATS)


def test_the_decoder_of_heic_is_loaded_for_heic_only(decoders):
    def loaded():
        [one] = decoders._idle
        return "libheif" in Path(f"/proc/{one._process.pid}/maps").read_text()

    for kind in ("PNG", "AVIF"):
        load(decoders, small(kind))
    assert not loaded()
    with pytest.raises(PictureError, match="Use JPEG, PNG"):
        load(decoders, small("HEIF"), WEB_FORMATS)
    assert not loaded()
    load(decoders, small("HEIF"))
    assert loaded()


@pytest.mark.parametrize(
    "orientation", [6, 7, *(pytest.param(each, marks=pytest.mark.endurance) for each in (1, 2, 3, 4, 5, 8))]
)
def test_a_large_heic_is_upright_like_a_png(decoders, orientation):
    """Above 8 megapixels, an image is decoded directly into the memory that is sent."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    values = np.linspace(0, 255, 3 * 4 * 6).astype(np.uint8).reshape(6, 4, 3)
    picture = Image.fromarray(values).resize((2560, 3840), Image.Resampling.NEAREST)
    found = []
    for kind, options in (
        ("HEIF", {"quality": 50, "enc_params": {"preset": "ultrafast"}}),
        ("PNG", {"compress_level": 1}),
    ):
        file = io.BytesIO()
        picture.save(file, kind, exif=exif.tobytes(), **options)
        found.append(load(decoders, file.getvalue()))
    heic, png = found
    assert heic.size == png.size
    difference = np.asarray(heic.reduce(64), np.int16) - np.asarray(png.reduce(64), np.int16)
    assert np.abs(difference).max() < 12


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (3, 201), (256, 67)])
def test_pixels_pass_unchanged_through_the_process(decoders, kind, size):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, sizes=[size])  # sizes: of an ICO
    loaded = load(decoders, file.getvalue())
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(decode(file.getvalue(), MAX_PIXELS)))
    assert loaded.mode == "RGB"
    if kind in ("PNG", "BMP", "TIFF", "PPM", "TGA"):  # which lose nothing
        np.testing.assert_array_equal(np.asarray(loaded), values)


@pytest.mark.parametrize("size", [(0, 3), (2**16, 2**16), (10, 10)])
def test_a_process_that_sends_no_image_is_replaced(decoders, size):
    """It may be in the hands of whoever made an image; here, the test answers for it."""
    load(decoders, small("PNG"))
    [one] = decoders._idle
    one._socket, hostile = socket.socketpair()
    hostile.sendall(LENGTHS.pack(*size) + bytes(300))  # of 400 for 10 x 10 pixels, and a message of 3
    hostile.shutdown(socket.SHUT_WR)
    with pytest.raises(PictureError, match=r"^\0{3}$" if size[0] == 0 else CRASHED):
        load(decoders, small("PNG"))
    one.kill()
    hostile.close()
    assert load(decoders, small("PNG")).size == (24, 20)


def test_a_process_that_sends_too_slowly_is_replaced(monkeypatch, decoders):
    load(decoders, small("PNG"))
    [one] = decoders._idle
    one._socket, hostile = socket.socketpair()
    monkeypatch.setattr(decoder, "SECONDS", 1.0)
    done = threading.Event()

    def send():
        hostile.sendall(LENGTHS.pack(10, 10))
        while not done.wait(0.1):
            hostile.sendall(b"x")

    sender = threading.Thread(target=send)
    sender.start()
    started = time.monotonic()
    with pytest.raises(PictureUnavailable, match=TOO_SLOW):
        load(decoders, small("PNG"))
    done.set()
    sender.join()
    hostile.close()
    assert time.monotonic() - started < 10  # 400 bytes would take 40 s
    monkeypatch.undo()
    assert load(decoders, small("PNG")).size == (24, 20)


def test_nothing_of_the_image_before_is_left_in_the_memory_of_the_process():
    memory = _Memory()
    for size in ((30, 20), (3000, 3000), (10, 10)):
        image = memory.image(size)
        colors = np.frombuffer(memory.pixels(size), np.uint8).reshape(-1, 4)[:, :3]
        assert not colors.any(), "a decoder that stops halfway would leave it there"
        image.paste((1, 2, 3), (0, 0, *size))


def test_an_image_stays_as_it_is_when_others_follow(decoders):
    first = load(decoders, small("PNG"))
    before = np.asarray(first).copy()
    for color in ("black", "white"):
        file = io.BytesIO()
        Image.new("RGB", (300, 200), color).save(file, "PNG")
        assert load(decoders, file.getvalue()).getcolors() == [(60_000, (0, 0, 0) if color == "black" else (255,) * 3)]
    np.testing.assert_array_equal(np.asarray(first), before)


def test_a_killed_process_is_replaced(decoders):
    load(decoders, small("PNG"))
    [one] = decoders._idle
    os.kill(one._process.pid, signal.SIGKILL)
    wait_until(lambda: not one.alive)
    assert load(decoders, small("PNG")).size == (24, 20)


@pytest.mark.parametrize(("sent", "message"), [(signal.SIGKILL, CRASHED), (signal.SIGSTOP, TOO_SLOW)])
def test_a_process_that_dies_or_hangs_while_it_decodes_is_reported(monkeypatch, decoders, sent, message):
    load(decoders, small("PNG"))
    [one] = decoders._idle
    monkeypatch.setattr(decoder, "SECONDS", 2.0 if sent == signal.SIGSTOP else 60.0)
    os.kill(one._process.pid, signal.SIGSTOP)  # so that it is surely at work when the signal arrives
    killer = threading.Timer(0.2, os.kill, (one._process.pid, sent))
    killer.start()
    with pytest.raises(PictureError, match=message):
        load(decoders, small("PNG"))
    killer.join()
    assert load(decoders, small("PNG")).size == (24, 20)


def test_lack_of_file_descriptors_is_reported_at_once_and_survived(decoders):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(PictureUnavailable, match="out of resources"):
            load(decoders, small("PNG"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert load(decoders, small("PNG")).size == (24, 20)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert load(decoders, small("PNG")).size == (24, 20), "a process that runs needs none"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_threads_share_a_bounded_number_of_processes():
    pool = Decoders()
    with ThreadPoolExecutor(16) as threads:
        loaded = list(threads.map(lambda _: load(pool, small("PNG")).size, range(64)))
    assert loaded == [(24, 20)] * 64
    assert 1 <= len(pool._idle) <= PROCESSES
    pool.close()
    assert not pool._idle


def test_a_process_sees_no_secrets_and_has_limits(monkeypatch, decoders):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    load(decoders, small("PNG"))
    [one] = decoders._idle
    process = Path(f"/proc/{one._process.pid}")
    assert b"hf_secret" not in process.joinpath("environ").read_bytes()
    found = {line[:26].strip(): line.split()[-3:-1] for line in process.joinpath("limits").read_text().splitlines()}
    assert int(found["Max address space"][0]) == 2 * 2**30
    assert int(found["Max file size"][0]) == 0
    assert int(found["Max open files"][0]) == 16


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_from_both_byte_orders(order, orientation):
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[0x0112], exif[0x0132] = "maker of the camera", orientation, "2026:01:01 00:00:00"
    block = exif.tobytes()
    assert orientation_of(block) == orientation_of(block.removeprefix(b"Exif\0\0")) == orientation


@pytest.mark.parametrize(
    "block",
    [b"", b"II", b"II*\0\xff\xff\xff\xff", repeating_directory(3, 10), repeating_directory(0, 0)[:9], b"x" * 99],
)
def test_a_damaged_exif_block_has_no_orientation(block):
    assert orientation_of(block) is None
