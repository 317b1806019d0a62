"""The process that decodes images for another one, `python -m retrieval.pictures.worker`; see `decoder`.

Its stdin is a socket, through which requests come and replies go until the other process closes it.
"""

import json
import os
import resource
import signal
import socket
import sys
import tempfile
from typing import IO

from PIL import Image, ImageFile

from retrieval.errors import PictureError
from retrieval.pictures.decoder import LENGTHS, PIXEL_BYTES
from retrieval.pictures.decoding import MAX_PIXELS, decode

# CPU seconds for an image: enough for the slowest format on a slow machine, and little enough for a public page.
SECONDS = 3.0
SECONDS_PER_MEGAPIXEL = 0.1

WRITTEN_AT_ONCE = 2**18  # bytes of pixels, which fit into the processor's cache

# What a decoder with a security flaw could use at most.
LIMITS = {
    resource.RLIMIT_AS: 2 * 2**30,  # bytes of memory; a JPEG 2000 image of 80 megapixels takes the most
    resource.RLIMIT_FSIZE: MAX_PIXELS * PIXEL_BYTES,  # bytes of a file; the pixels are sent as one
    resource.RLIMIT_NOFILE: 16,  # open files
    resource.RLIMIT_CORE: 0,
}


def main() -> None:
    """Answer requests until the other process closes the socket."""
    for limit, most in LIMITS.items():
        resource.setrlimit(limit, (most, most))
    with socket.socket(fileno=sys.stdin.fileno()) as connection, connection.makefile("rb") as requests:
        while lengths := requests.read(LENGTHS.size):
            _end_after(SECONDS)
            request, image = (requests.read(length) for length in LENGTHS.unpack(lengths))
            _answer(connection, image, **json.loads(request))
            _end_after(0)


def _answer(connection: socket.socket, image: bytes, most_pixels: int, formats: list[str]) -> None:
    def opened(pixels: int) -> None:
        _end_after(SECONDS + SECONDS_PER_MEGAPIXEL * pixels / 1e6)

    try:
        picture = decode(image, most_pixels, tuple(formats), opened)
    except PictureError as error:
        message = str(error).encode()
        connection.sendall(LENGTHS.pack(0, len(message)) + message)
        return
    with _unnamed_file() as file:
        _write_pixels(picture, file)
        socket.send_fds(connection, [LENGTHS.pack(*picture.size)], [file.fileno()])


def _unnamed_file() -> IO[bytes]:
    """Return a file that vanishes when nobody has it open: in memory, or on systems without such files on the disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("pixels"), "wb", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _write_pixels(picture: Image.Image, file: IO[bytes]) -> None:
    # As Pillow's plugins write their files; copying strips in Python would take half as long again.
    tile = ImageFile._Tile("raw", (0, 0, *picture.size), 0, ("RGBX", 0, 1))
    ImageFile._save(picture, file, [tile], WRITTEN_AT_ONCE)


def _end_after(seconds: float) -> None:
    """Let the system end this process after so many seconds of CPU time from now; 0 is no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
