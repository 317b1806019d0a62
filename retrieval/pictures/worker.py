"""The process that decodes images for another one, `python -m retrieval.pictures.worker`; see `decoder`.

Its stdin is a socket, through which requests come and replies go until the other process closes it.
"""

import json
import mmap
import os
import resource
import signal
import socket
import sys
import tempfile
from typing import IO

from PIL import Image, ImageFile

from retrieval.errors import PictureError
from retrieval.pictures.decoder import KEPT_BYTES, LENGTHS, PIXEL_BYTES
from retrieval.pictures.decoding import MAX_PIXELS, decode

# CPU seconds for an image: enough for the slowest format on a slow machine, and little enough for a public page.
SECONDS = 3.0
SECONDS_PER_MEGAPIXEL = {"JPEG2000": 0.5}  # and of other formats:
OTHER_SECONDS_PER_MEGAPIXEL = 0.1

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
    with (
        socket.socket(fileno=sys.stdin.fileno()) as connection,
        connection.makefile("rb") as requests,
        _unnamed_file() as kept,
    ):
        while lengths := requests.read(LENGTHS.size):
            _end_after(SECONDS)
            request, image = (requests.read(length) for length in LENGTHS.unpack(lengths))
            _answer(connection, kept, image, **json.loads(request))
            _end_after(0)


def _answer(connection: socket.socket, kept: IO[bytes], image: bytes, most_pixels: int, formats: list[str]) -> None:
    pixels = _Pixels(kept)

    def opened(image: Image.Image) -> None:
        more = SECONDS_PER_MEGAPIXEL.get(image.format or "", OTHER_SECONDS_PER_MEGAPIXEL)
        _end_after(SECONDS + more * image.width * image.height / 1e6)
        pixels.offer(image)

    try:
        pixels.take(decode(image, most_pixels, tuple(formats), opened))
    except PictureError as error:
        message = str(error).encode()
        connection.sendall(LENGTHS.pack(0, len(message)) + message)
    else:
        socket.send_fds(connection, [LENGTHS.pack(*pixels.size)], [pixels.file.fileno()])


class _Pixels:
    """The file with the pixels of an image: the one that is kept or, for a large image, a new one.

    Memory that is new to a process takes about as long as decoding, so most images get that of the image before. A
    large one is decoded directly into its file, as far as its format allows.
    """

    def __init__(self, kept: IO[bytes]) -> None:
        self.file = kept
        self.size = (0, 0)
        self._memory: object = None  # of an image that is decoded directly

    def offer(self, image: Image.Image) -> None:
        """Choose the file for an image that was opened, and let it decode into a new one if it can."""
        size = image.width * image.height * PIXEL_BYTES
        if size <= KEPT_BYTES:
            return
        self.file = _unnamed_file()
        if image.mode == "RGB" and image._im is None:
            self.file.truncate(size)
            mapped = mmap.mmap(self.file.fileno(), size)
            # Pillow takes any buffer, although it says otherwise.
            memory = Image.frombuffer("RGBX", image.size, mapped, "raw", "RGBX", 0, 1).im  # type: ignore[arg-type]
            memory.setmode("RGB")
            image.im = self._memory = memory

    def take(self, picture: Image.Image) -> None:
        """Write a decoded image into the file unless it is there already."""
        self.size = picture.size
        if self._memory is None or picture.im is not self._memory:
            self.file.seek(0)
            # As Pillow's plugins write their files.
            tile = ImageFile._Tile("raw", (0, 0, *picture.size), 0, ("RGBX", 0, 1))
            ImageFile._save(picture, self.file, [tile], WRITTEN_AT_ONCE)


def _unnamed_file() -> IO[bytes]:
    """Return a file that vanishes when nobody has it open: in memory, or on systems without such files on the disk."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        return os.fdopen(file, "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _end_after(seconds: float) -> None:
    """Let the system end this process after so many seconds of CPU time from now; 0 is no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
