"""The process that decodes images for another one, `python -m retrieval.pictures.worker`; see `decoder`.

Its stdin is a socket, through which requests come and replies go until the other process closes it.
"""

import json
import mmap
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from PIL import Image

from retrieval.errors import PictureError
from retrieval.pictures.decoder import LENGTHS, PIXEL_BYTES
from retrieval.pictures.decoding import decode

# CPU seconds for an image: enough for the slowest format on a slow machine, and little enough for a public page.
SECONDS = 3.0
SECONDS_PER_MEGAPIXEL = {"JPEG2000": 0.5}  # and of other formats:
OTHER_SECONDS_PER_MEGAPIXEL = 0.1

KEPT_BYTES = 32 * 2**20  # of pixels

# What a decoder with a security flaw could use at most.
LIMITS = {
    resource.RLIMIT_AS: 2 * 2**30,  # bytes of memory; a JPEG 2000 image of 80 megapixels takes the most
    resource.RLIMIT_FSIZE: 0,  # bytes of a file that it writes
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
    ):
        memory = _Memory()
        while lengths := requests.read(LENGTHS.size):
            _end_after(SECONDS)
            request, image = (requests.read(length) for length in LENGTHS.unpack(lengths))
            _answer(connection, memory, image, **json.loads(request))
            _end_after(0)


def _answer(connection: socket.socket, memory: "_Memory", image: bytes, most_pixels: int, formats: list[str]) -> None:
    target = None

    def opened(image: Image.Image) -> None:
        nonlocal target
        more = SECONDS_PER_MEGAPIXEL.get(image.format or "", OTHER_SECONDS_PER_MEGAPIXEL)
        _end_after(SECONDS + more * image.width * image.height / 1e6)
        # Decode it there, as far as its format allows; Pillow turns TIFF images while it decodes them.
        if image.mode == "RGB" and image._im is None and image.format != "TIFF":
            image.im = target = memory.image(image.size)

    try:
        picture = decode(image, most_pixels, tuple(formats), opened)
    except PictureError as error:
        message = str(error).encode()
        connection.sendall(LENGTHS.pack(0, len(message)) + message)
        return
    if target is None or picture.im is not target:
        memory.image(picture.size).paste(picture.im, (0, 0, *picture.size))
    connection.sendall(LENGTHS.pack(*picture.size))
    connection.sendall(memory.pixels(picture.size))


class _Memory:
    """Memory for the pixels of one image at a time.

    Memory that is new to a process takes about as long as decoding, so that of most images is kept for the next.
    """

    def __init__(self) -> None:
        self._bytes = _new_memory(KEPT_BYTES)

    def image(self, size: tuple[int, int]) -> Any:
        """Return a black image of Pillow's in this memory, in place of the one before."""
        if len(self._bytes) > KEPT_BYTES or _bytes_of(size) > KEPT_BYTES:
            self._bytes = _new_memory(max(KEPT_BYTES, _bytes_of(size)))
        # Pillow takes any buffer, although it says otherwise.
        image = Image.frombuffer("RGBX", size, self._bytes, "raw", "RGBX", 0, 1).im  # type: ignore[arg-type]
        image.setmode("RGB")
        image.paste((0, 0, 0), (0, 0, *size))  # nothing of the image before may be seen in a damaged one
        return image

    def pixels(self, size: tuple[int, int]) -> memoryview:
        """Return the bytes of the image."""
        return memoryview(self._bytes)[: _bytes_of(size)]


def _new_memory(size: int) -> mmap.mmap:
    """Return so many bytes of memory, all of them 0, in large pages where the system has them.

    Those take a fifth of the time that pages of 4 kB take, which is a third of that of decoding a JPEG.
    """
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # the kernel was built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _bytes_of(size: tuple[int, int]) -> int:
    return size[0] * size[1] * PIXEL_BYTES


def _end_after(seconds: float) -> None:
    """Let the system end this process after so many seconds of CPU time from now; 0 is no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
