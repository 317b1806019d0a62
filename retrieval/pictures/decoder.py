"""Decode images in separate processes with limits on memory and time, which are killed at a limit and replaced.

A hostile image can keep a decoder busy for minutes, fill the memory, or exploit a flaw in the decoder. In a process of
its own, it costs its sender an error message, and everybody else nothing.
"""

import atexit
import fcntl
import json
import logging
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from PIL import Image

from retrieval.errors import PictureError, PictureUnavailable

PROCESSES = max(2, os.cpu_count() or 1)  # an image at the size limit takes half a gigabyte while it is decoded
SECONDS = 60.0  # for an image, by the clock; `worker` limits the CPU time
INHERITED = ("HOME", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME")  # of the environment, which may hold tokens

# A request: the lengths of its JSON and of the encoded image, which follow. A reply: the image's width and height, with
# a file attached that begins with its pixels; or 0 and the length of an error message, which follows.
LENGTHS = struct.Struct("<II")
MESSAGE_BYTES = 2000  # of an error message at most
PIXEL_BYTES = 4  # red, green, blue, unused: how Pillow stores a pixel
# Of pixels, for which a process has one file. A larger image gets a file of its own, and is not copied: glibc's
# allocator would map new memory for it each time.
KEPT_BYTES = 32 * 2**20

TOO_SLOW = "Decoding the image takes too long. Save it again, for example as PNG, or choose another."
NO_PROCESS = "The image cannot be decoded at the moment, because the system is out of resources. Try again later."
CRASHED = "The decoder crashed on the image, so the image is probably damaged. Save it again or choose another."

log = logging.getLogger(__name__)


class Decoders:
    """A pool of decoder processes, which are started when they are first needed. Thread-safe."""

    def __init__(self, most: int = PROCESSES) -> None:
        self._free = threading.BoundedSemaphore(most)
        self._idle: list[_Decoder] = []
        self._busy: list[_Decoder] = []
        atexit.register(self.close)

    def start(self) -> None:
        """Start a process without waiting for it, so that the first image need not wait."""
        with self._free:
            self._idle.append(self._idle_decoder())

    def decode(self, data: bytes, most_pixels: int, formats: tuple[str, ...]) -> Image.Image:
        """Return an encoded image upright, in RGB; wait while all processes are busy.

        Raise PictureError if it cannot be decoded, or not within the limits.
        """
        with self._free:
            try:
                decoder = self._idle_decoder()
            except OSError as error:
                raise PictureUnavailable(NO_PROCESS) from error
            self._busy.append(decoder)
            try:
                return decoder.decode(data, most_pixels, formats)
            finally:
                self._busy.remove(decoder)
                if decoder.alive:
                    self._idle.append(decoder)

    def close(self) -> None:
        """End all processes; images that are being decoded are reported as failed."""
        for decoder in [*self._busy]:
            decoder.end()
        with suppress(IndexError):
            while True:
                self._idle.pop().kill()

    def _idle_decoder(self) -> "_Decoder":
        with suppress(IndexError):  # there is none, or another thread has just taken it
            while True:
                decoder = self._idle.pop()
                if decoder.alive:  # it may have been killed, for example for lack of memory
                    return decoder
        return _Decoder()


class _Decoder:
    """One process; used by one thread at a time."""

    def __init__(self) -> None:
        self._kept: mmap.mmap | None = None  # the pixels of the image before
        self._kept_file = (0, 0)
        self._socket, other_end = socket.socketpair()
        with other_end:
            self._process = subprocess.Popen(
                # -P: a folder in which the app is started must not replace modules.
                [sys.executable, "-P", "-m", "retrieval.pictures.worker"],
                stdin=other_end.fileno(),
                stdout=subprocess.DEVNULL,
                env=clean_environment(),
                start_new_session=True,  # Ctrl-C is for the app only
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """End the process; the thread that waits for its answer notices and does the rest."""
        self._process.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._socket.close()

    def decode(self, data: bytes, most_pixels: int, formats: tuple[str, ...]) -> Image.Image:
        try:
            return self._decode(data, most_pixels, formats)
        except PictureError:
            raise
        except OSError as error:  # the process has ended, or has not answered in time
            late = isinstance(error, TimeoutError)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0 if late else 1)  # its own end tells more than that it is killed here
            self.kill()
            code = self._process.returncode
            log.warning("a decoder process ended with exit code %d and is replaced", code)
            # On a busy machine any image can take too long, and the system kills a process for lack of memory.
            kind = PictureUnavailable if late or code == -signal.SIGKILL else PictureError
            raise kind(TOO_SLOW if late or code == -signal.SIGPROF else CRASHED) from error
        except BaseException:  # such as an interrupt, after which request and reply would no longer match
            self.kill()
            raise

    def _decode(self, data: bytes, most_pixels: int, formats: tuple[str, ...]) -> Image.Image:
        self._socket.settimeout(SECONDS)
        request = json.dumps({"most_pixels": most_pixels, "formats": formats}).encode()
        self._socket.sendall(LENGTHS.pack(len(request), len(data)) + request)
        self._socket.sendall(data)
        reply, files, _, _ = socket.recv_fds(self._socket, LENGTHS.size, 1)
        if len(reply) < LENGTHS.size:
            raise ConnectionError("the process has ended")
        width, height = LENGTHS.unpack(reply)
        if width and not files:  # the system drops a file for which this process has no descriptor left
            raise PictureUnavailable(NO_PROCESS)
        if not files:
            raise PictureError(self._socket.recv(min(height, MESSAGE_BYTES)).decode(errors="replace"))
        size = width * height * PIXEL_BYTES
        with os.fdopen(files[0], "rb") as file:
            if not 0 < width * height <= most_pixels or os.fstat(file.fileno()).st_size < size:
                raise ConnectionError("the process returns something other than an image")
            pixels = self._mapped(file.fileno(), size)
        import pyarrow as pa

        values = pa.Array.from_buffers(pa.uint8(), size, [None, pa.py_buffer(pixels)])
        image = Image.fromarrow(pa.FixedSizeListArray.from_arrays(values, PIXEL_BYTES), "RGB", (width, height))
        return image.copy() if size <= KEPT_BYTES else image  # the next image takes the place of a smaller one

    def _mapped(self, file: int, size: int) -> mmap.mmap:
        """Return the memory of a file that begins with an image of so many bytes.

        Memory that is new to a process takes about as long as decoding, so that of smaller images is kept.
        """
        found = os.fstat(file)
        this = (found.st_dev, found.st_ino)
        if self._kept is not None and self._kept_file == this and len(self._kept) >= size:
            return self._kept
        if hasattr(fcntl, "F_ADD_SEALS"):  # the process could shorten the file, which would end this one as it reads
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        if size > KEPT_BYTES:
            return mmap.mmap(file, size, prot=mmap.PROT_READ)
        self._kept, self._kept_file = mmap.mmap(file, found.st_size, prot=mmap.PROT_READ), this
        return self._kept


def clean_environment() -> dict[str, str]:
    """Return the environment of a process that reads hostile files: nothing that may hold a token."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    return inherited | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
