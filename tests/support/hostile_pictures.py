"""Files that a hostile visitor could upload as a picture, made byte by byte, with the expected response to each."""

import functools
import gzip
import io
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin
from pillow_heif import register_heif_opener

register_heif_opener()  # so that Pillow can write such files here

NO_PICTURE = "not an image that can be read"
DAMAGED = "damaged or cut off"
BOMB = "too many pixels"
EMPTY = "is empty"
READ = ""  # no error message: it is read as a picture


class HostileFile(NamedTuple):
    """A file and its expected error message; several messages where it depends on the decoder's version."""

    make: Callable[[], bytes]
    messages: tuple[str, ...]
    name: str = "picture.png"
    public: bool = True  # whether public pages accept its format; they call others no image


def small(kind: str = "PNG", size: tuple[int, int] = (24, 20), **options: object) -> bytes:
    data = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(data, kind, **options)
    return data.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """A PNG with any header, and with chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@functools.cache
def compressed_zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """A valid 2 x 2 picture with a metadata chunk."""
    return png(2, 2, chunk(kind, data), rows=b"\0" + bytes(6) + b"\0" + bytes(6))


def tiff(*entries: tuple[int, int, int, int], tail: bytes = b"", after: int = 0) -> bytes:
    """A little-endian TIFF with one directory; entries are tag, type, count and value; `after` links the next."""
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *each) for each in entries)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", after) + tail


def tiff_of(width: int, height: int, bits: int = 8, kind: int = 1, **more: int) -> bytes:
    size = {"tail": b"\0" * 64, **more}
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 64), (339, 3, 1, kind)]
    return tiff(*entries, tail=bytes(64), after=size.get("after", 0))


def floats() -> bytes:
    data = io.BytesIO()
    values = np.array([[np.nan, np.inf, -np.inf, 1e38], [-1e38, 0, 1, -0.0]], np.float32)
    Image.fromarray(values).save(data, "TIFF")
    return data.getvalue()


def gif(width: int, height: int, frames: int = 1, shown: tuple[int, int] | None = None) -> bytes:
    w, h = shown or (width, height)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, w, h, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * frames + b"\x3b"


def bmp(width: int, height: int, bits: int = 24, offset: int = 54) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 70, 0, 0, offset) + info + bytes(16)


def ico(width: int, content: bytes) -> bytes:
    return (
        struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", width, width, 0, 0, 1, 32, len(content), 22) + content
    )


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + kind + data


def jp2(width: int, height: int) -> bytes:
    header = box(b"ihdr", struct.pack(">IIHBBBB", height, width, 3, 7, 7, 0, 0))
    siz = struct.pack(">HIIIIIIIIH", 0, width, height, 0, 0, width, height, 0, 0, 3) + b"\x07\x01\x01" * 3
    stream = b"\xff\x4f\xff\x51" + struct.pack(">H", len(siz) + 2) + siz
    start = b"\0\0\0\x0cjP  \r\n\x87\n" + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + box(b"jp2h", header) + box(b"jp2c", stream)


def jpeg_sized(width: int, height: int) -> bytes:
    """A valid JPEG with another size in its header."""
    data = bytearray(small("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_sized(width: int, height: int) -> bytes:
    """A WebP of the extended form, with the size of its canvas in 24 bits."""
    vp8x = bytes([0, 0, 0, 0]) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + vp8x + small("WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def avif_sized(width: int, height: int) -> bytes:
    """A valid AVIF with another size in its properties."""
    data = bytearray(small("AVIF"))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", width, height)
    return bytes(data)


def avif_of_frames(claimed: int) -> bytes:
    """An AVIF animation of 3 frames with another number of them in its table of sizes."""
    data = bytearray(animation("AVIF", 3))
    at = data.index(b"stsz") + 12
    data[at : at + 4] = struct.pack(">I", claimed)
    return bytes(data)


def apng(frames: int, width: int = 4, height: int = 4, claimed: int | None = None) -> bytes:
    """An animated PNG of 4 x 4 pixels whose frames have any size."""
    rows = zlib.compress((b"\0" + bytes(12)) * 4)
    control = struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 0, 0)
    more = [
        part
        for number in range(1, frames)
        for part in (
            chunk(b"fcTL", struct.pack(">I", 2 * number - 1) + control[4:]),
            chunk(b"fdAT", struct.pack(">I", 2 * number) + rows),
        )
    ]
    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"acTL", struct.pack(">II", claimed or frames, 0)), chunk(b"fcTL", control)]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", rows), *more, chunk(b"IEND", b"")])


def jpeg_with(marker: int, data: bytes, times: int = 1) -> bytes:
    whole = small("JPEG")
    return whole[:2] + (bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data) * times + whole[2:]


def progressive_with_empty_scans(scans: int, size: tuple[int, int] = (24, 20)) -> bytes:
    """A progressive JPEG followed by scans without data, each of which passes over the whole picture."""
    data = small("JPEG", size, progressive=True)
    last = data.rindex(b"\xff\xda")
    header = data[last : last + 2 + int.from_bytes(data[last + 2 : last + 4])]
    return data[:-2] + header * scans + data[-2:]


def repeating_directory(entries: int, size: int, orientation: int | None = None) -> bytes:
    """Return a TIFF directory whose entries all refer to the same bytes."""
    rows = [(0x0112, 3, 1, orientation)] if orientation else []
    rows += [((0x9000 + number) % 65536, 7, size, 8) for number in range(entries)]
    table = b"".join(struct.pack("<HHLL", *row) for row in rows)
    return b"II*\0" + struct.pack("<LH", 8, len(rows)) + table + bytes(4) + bytes(size)


def exif_loop() -> bytes:
    """EXIF whose directory refers to itself, both as the next one and as its own sub-directory."""
    entries = struct.pack("<H", 2) + struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<HHII", 0x0112, 3, 1, 6)
    return jpeg_with(0xE1, b"Exif\0\0II*\0" + struct.pack("<I", 8) + entries + struct.pack("<I", 8))


def zipped(content: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("picture.png", content)
    return data.getvalue()


def animation(kind: str, frames: int) -> bytes:
    first, *rest = (Image.new("RGB", (8, 8), (each % 256, 0, 0)) for each in range(frames))
    data = io.BytesIO()
    first.save(data, kind, save_all=True, append_images=rest)
    return data.getvalue()


def metadata_bomb() -> bytes:
    info = PngImagePlugin.PngInfo()
    for number in range(3000):
        info.add_text(f"key {number}", "x" * 100, zip=True)
    return small(pnginfo=info)


class Trap:
    """Runs a command if it is ever unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('unpickled')",)


SVG = """<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/hostname">]>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9" height="9">
<script>alert(1)</script><image xlink:href="CANARY/svg.png"/><text>&x;</text></svg>"""
EPS = """%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 9 9
(CANARY/eps) (w) file pop
%%EOF"""
OBJECTS = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
PROGRAMS = {  # formats that need another program to open, or that refer to other files
    "eps": lambda: EPS.encode(),
    "eps with a binary header": lambda: b"\xc5\xd0\xd3\xc6" + struct.pack("<II18x", 30, len(EPS)) + EPS.encode(),
    "svg with a script and an entity": lambda: SVG.encode(),
    "svg, compressed": lambda: gzip.compress(SVG.encode()),
    "pdf": lambda: b"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/URI/URI(CANARY/pdf)>>>>endobj\ntrailer<<>>",
    "wmf": lambda: b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<hhhhH", 0, 0, 99, 99, 72) + bytes(20),
    "emf": lambda: struct.pack("<II", 1, 108) + bytes(32) + b" EMF" + bytes(64),
    "mvg of ImageMagick": lambda: b"push graphic-context\nimage over 0,0 0,0 'CANARY/mvg'\npop graphic-context",
    "playlist of ffmpeg": lambda: (
        b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1.0,\nfile:///etc/hostname\n#EXT-X-ENDLIST"
    ),
    "fits": lambda: b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =    8".ljust(80) + bytes(2720),
    "hdf5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(100),
    "grib": lambda: b"GRIB" + bytes(100),
    "bufr": lambda: b"BUFR" + bytes(100),
    "psd of 300,000 x 300,000": lambda: b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 300_000, 300_000, 8, 3) + bytes(20),
    "icns": lambda: b"icns" + struct.pack(">I", 100) + b"ic10" + struct.pack(">I", 92) + bytes(84),
    "dds of 65,535 x 65,535": lambda: b"DDS " + struct.pack("<IIII", 124, 7, 65535, 65535) + bytes(200),
    "sgi": lambda: struct.pack(">HBBHHHH", 474, 1, 1, 3, 65535, 65535, 3) + bytes(600),
    "pcx": lambda: bytes([10, 5, 1, 8]) + struct.pack("<HHHH", 0, 0, 65534, 65534) + bytes(200),
    "fli": lambda: struct.pack("<IHHHHHH", 200, 0xAF11, 99, 65535, 65535, 8, 3) + bytes(200),
    "im": lambda: b"Image type: RGB image\r\nImage size (x*y): 99999*99999\r\n".ljust(511, b"\0") + b"\x1a",
    "xpm": lambda: b'/* XPM */\nstatic char * x[] = {\n"99999 99999 1 1",\n',
    "xbm": lambda: b"#define im_width 99999\n#define im_height 99999\nstatic char im_bits[] = {\n0x00",
    "blp": lambda: b"BLP2" + struct.pack("<IBBBBII", 1, 1, 8, 8, 0, 65535, 65535) + bytes(200),
    "sun raster": lambda: struct.pack(">IIIIIIII", 0x59A66A95, 65535, 65535, 24, 0, 1, 0, 0),
    "quake texture": lambda: b"WAL2" + bytes(100),
    "html": lambda: b"<html><script>alert(1)</script></html>",
    "php": lambda: b"<?php system($_GET['x']); ?>",
    "program": lambda: b"\x7fELF" + bytes(200),
    "text": lambda: b"no picture " * 40,
    "pickle": lambda: pickle.dumps(Trap()),
    "npy of objects": lambda: b"\x93NUMPY\x01\x00v\x00" + OBJECTS.ljust(118) + pickle.dumps(Trap()),
    "zip bomb": lambda: zipped(bytes(30_000_000)),
    "gzip bomb": lambda: gzip.compress(bytes(30_000_000)),
    "xml bomb": lambda: b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><svg>&b;</svg>',
    "spaces": lambda: b" " * 100_000,
    "zeros": lambda: bytes(100_000),
}

BOMBS = {
    "png of 50,000 x 50,000": lambda: png(50_000, 50_000),
    "png of 50,000 x 50,000 with some rows": lambda: png(50_000, 50_000, rows=bytes(1_000_000)),
    "png of 2^31-1 squared": lambda: png(2**31 - 1, 2**31 - 1),
    "png of 1 x 2^31-1": lambda: png(1, 2**31 - 1),
    "png of 65,536 x 65,536 in one bit": lambda: png(65_536, 65_536, depth=1, colour=0),
    "gif of 65,535 x 65,535": lambda: gif(65_535, 65_535),
    "bmp of 2^31-1 x 9": lambda: bmp(2**31 - 1, 9),
    "bmp of 65,535 x -65,535": lambda: bmp(65_535, -65_535),
    "tiff of 2^32-1 squared": lambda: tiff_of(2**32 - 1, 2**32 - 1),
    "tiff of 100,000 x 100,000": lambda: tiff_of(100_000, 100_000),
    "jpeg of 65,500 x 65,500": lambda: jpeg_sized(65_500, 65_500),
    "jpeg 2000 of 100,000 x 100,000": lambda: jp2(100_000, 100_000),
    "ppm of 100,000 x 100,000": lambda: b"P6 100000 100000 255\n" + bytes(100),
    "tga of 65,535 x 65,535": lambda: struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 65535, 65535, 24, 0),
    "ico holding a png bomb": lambda: ico(0, png(50_000, 50_000)),
}

VALID = {  # strange, but readable as pictures
    "html after a gif": lambda: small("GIF") + b"<html><script>alert(1)</script></html>",
    "gif whose comment is a script": lambda: small("GIF", comment=b"*/=1;alert(1);/*"),
    "zip after a jpeg": lambda: small("JPEG") + zipped(b"x"),
    "php in a jpeg's comment": lambda: jpeg_with(0xFE, b"<?php system($_GET['x']); ?>"),
    "html in a png's text": lambda: with_chunk(b"tEXt", b"Comment\0<script>alert(1)</script>"),
    "png named .svg": small,
    "exif that points at itself": exif_loop,
    "exif of 60 kB in 100 pieces": lambda: jpeg_with(0xE1, b"Exif\0\0" + bytes(60_000), times=100),
    "jpeg with icc of 15 MB": lambda: jpeg_with(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000), times=250),
    "png that is 1 x 1": lambda: small(size=(1, 1)),
    "png of 1 x 20,000": lambda: small(size=(1, 20_000)),
    "png of 20,000 x 1": lambda: small(size=(20_000, 1)),
    "float tiff of NaN and infinity": floats,
    "gif of 3,000 frames": lambda: animation("GIF", 3000),
    "webp of 300 frames": lambda: animation("WEBP", 300),
    "avif of 300 frames": lambda: animation("AVIF", 300),
    "animated png of 3,000 frames": lambda: apng(3000),
    "animated png that claims 2^31-1 frames": lambda: apng(2, claimed=2**31 - 1),
    "3,000 texts in a png": metadata_bomb,
    "tiff whose next page is itself": lambda: tiff_of(4, 4, after=8),
    "webp whose metadata is 18 MB, 200 times": lambda: small("WEBP", exif=repeating_directory(200, 18 * 2**20)),
}

NOT_FOR_THE_PUBLIC = re.compile(r"\b(big)?tiff\b|\bp[pf]m\b|\btga\b|\bico\b|\bjpeg ?2000\b", re.IGNORECASE)

DAMAGED_FILES = {  # with the expected message
    "gif of 400,000 comments": (DAMAGED, lambda: gif(4, 4)[:19] + b"!\xfe\1x\0" * 400_000),
    "gif comment of 400,000 parts": (DAMAGED, lambda: gif(4, 4)[:19] + b"!\xfe" + b"\1x" * 400_000 + b"\0"),
    "gif comment of 16 MB": (DAMAGED, lambda: gif(4, 4)[:19] + b"!\xfe" + (b"\xff" + bytes(255)) * 65_536 + b"\0"),
    "png of 500,000 chunks": (DAMAGED, lambda: small()[:33] + chunk(b"tIME", b"") * 500_000),
    "jpeg 2000 of 500,000 boxes": (DAMAGED, lambda: jp2(8, 8)[:32] + box(b"free", b"") * 500_000),
    "png text that unpacks to 200 MB": (
        DAMAGED,
        lambda: with_chunk(b"zTXt", b"Comment\0\0" + compressed_zeros(200_000_000)),
    ),
    "png text in utf-8 that unpacks to 200 MB": (
        DAMAGED,
        lambda: with_chunk(b"iTXt", b"C\0\1\0\0\0" + compressed_zeros(200_000_000)),
    ),
    "png profile that unpacks to 200 MB": (
        DAMAGED,
        lambda: with_chunk(b"iCCP", b"p\0\0" + compressed_zeros(200_000_000)),
    ),
    "png rows that unpack to 200 MB": (READ, lambda: png(2, 2, rows=bytes(200_000_000))),
    "png of 0 x 5": (NO_PICTURE, lambda: png(0, 5)),
    "png of 5 x 0": (NO_PICTURE, lambda: png(5, 0)),
    "png chunk that is longer than the file": (DAMAGED, lambda: small()[:33] + struct.pack(">I", 2**31 - 1) + b"IDATx"),
    "png without a palette": (DAMAGED, lambda: png(2, 2, colour=3, rows=bytes(6))),
    "png of depth 77": (NO_PICTURE, lambda: png(2, 2, depth=77, rows=bytes(14))),
    "gif of 0 x 0": (NO_PICTURE, lambda: gif(0, 0)),
    "gif frame beyond its screen": (BOMB, lambda: gif(4, 4, shown=(65_535, 65_535))),
    "bmp of 0 x 0": (NO_PICTURE, lambda: bmp(0, 0)),
    "bmp of -5 x 5": (BOMB, lambda: bmp(-5, 5)),
    "bmp whose pixels lie at 2^32-1": (DAMAGED, lambda: bmp(5, 5, offset=2**32 - 1)),
    "tiff of 0 x 0": (NO_PICTURE, lambda: tiff_of(0, 0)),
    "tiff without anything": (NO_PICTURE, lambda: tiff()),
    "tiff of 65,535 entries": (DAMAGED, lambda: b"II*\0\x08\0\0\0\xff\xff"),
    "tiff with a field of 4 GB": (DAMAGED, lambda: tiff((256, 4, 1, 5), (257, 4, 1, 5), (270, 2, 2**32 - 1, 8))),
    "tiff of 64-bit floats": (NO_PICTURE, lambda: tiff_of(2, 2, bits=64, kind=3)),
    "bigtiff": (NO_PICTURE, lambda: b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + bytes(64)),
    "jpeg of 20,000 scans": ("more than 100 scans", lambda: progressive_with_empty_scans(20_000)),
    "jpeg of 0 x 0": (NO_PICTURE, lambda: jpeg_sized(0, 0)),
    "jpeg of nothing but markers": (DAMAGED, lambda: b"\xff\xd8" + b"\xff\xe0\0\2" * 100_000),
    "jpeg of restarts": (READ, lambda: small("JPEG")[:-40] + b"\xff\xd0\xff\xd1" * 1000),
    "webp of 16,000 x 16,000 in its canvas": (DAMAGED, lambda: webp_sized(16_000, 16_000)),
    "webp with a wrong length": (DAMAGED, lambda: b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff" + bytes(40)),
    "jpeg 2000 of 0 x 0": (NO_PICTURE, lambda: jp2(0, 0)),
    "jpeg 2000 without pixels": (DAMAGED, lambda: jp2(8, 8)),
    "ico of nothing": (NO_PICTURE, lambda: struct.pack("<HHH", 0, 1, 0)),
    "ico of 65,535 icons": (NO_PICTURE, lambda: struct.pack("<HHH", 0, 1, 65_535) + bytes(16)),
    "ico in an ico": (DAMAGED, lambda: ico(8, ico(8, small()))),
    "ppm of negative size": (NO_PICTURE, lambda: b"P6 -5 -5 255\n" + bytes(75)),
    "ppm of NaN": (DAMAGED, lambda: b"Pf\nnan nan\n-1.0\n" + bytes(16)),
    "pfm with a scale of NaN": (DAMAGED, lambda: b"Pf\n2 2\nnan\n" + bytes(16)),
    "tga of 0 x 0": (NO_PICTURE, lambda: struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 24, 0)),
    "ppm of a million digits": (DAMAGED, lambda: b"P6 " + b"9" * 1_000_000 + b" 1 255\n"),
    "avif of 65,535 x 65,535": (NO_PICTURE, lambda: avif_sized(65_535, 65_535)),
    "avif of 2^32-1 x 2^32-1": (NO_PICTURE, lambda: avif_sized(2**32 - 1, 2**32 - 1)),
    "avif of 3 frames that claims 2^32-1": (NO_PICTURE, lambda: avif_of_frames(2**32 - 1)),
    "animated png whose frames have 2^31-1 x 2^31-1": (NO_PICTURE, lambda: apng(2, 2**31 - 1, 2**31 - 1)),
    "avif of nothing": (NO_PICTURE, lambda: box(b"ftyp", b"avif\0\0\0\0avifmif1miaf") + box(b"meta", bytes(60))),
    "one byte": (NO_PICTURE, lambda: b"\x89"),
    "the first words of a png": (NO_PICTURE, lambda: b"\x89PNG\r\n\x1a\n"),
    "a png turned around": (NO_PICTURE, lambda: small()[::-1]),
}


@functools.cache
def files() -> dict[str, HostileFile]:
    """All files by name."""
    found = {name: HostileFile(make, (NO_PICTURE,)) for name, make in PROGRAMS.items()}
    found |= {name: HostileFile(make, (BOMB,)) for name, make in BOMBS.items()}
    found |= {name: HostileFile(make, (READ,)) for name, make in VALID.items()}
    found |= {name: HostileFile(make, (message,)) for name, (message, make) in DAMAGED_FILES.items()}
    found["nothing"] = HostileFile(bytes, (EMPTY,))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000"):
        for share in (5, 50, 95):
            cut = functools.partial(_truncated, kind, share)
            found[f"{share} % of a {kind}"] = HostileFile(cut, (DAMAGED, NO_PICTURE))
    return {name: each._replace(public=not NOT_FOR_THE_PUBLIC.search(name)) for name, each in found.items()}


def _truncated(kind: str, share: int) -> bytes:
    whole = small(kind)
    return whole[: len(whole) * share // 100]
