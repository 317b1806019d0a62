"""Decode images in separate processes with limits on memory and time, which are killed at a limit and replaced.

A hostile image can keep a decoder busy for minutes, fill the memory, or exploit a flaw in the decoder. In a process of
its own, it costs its sender an error message, and everybody else nothing.
"""

import atexit
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from retrieval.errors import PictureError, PictureUnavailable

PROCESSES = max(2, os.cpu_count() or 1)  # an image at the size limit takes half a gigabyte while it is decoded
SECONDS = 60.0  # for an image, by the clock; `worker` limits the CPU time
INHERITED = ("HOME", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME")  # of the environment, which may hold tokens

# A request: the lengths of its JSON and of the encoded image, which follow. A reply: the image's width and height, and
# its pixels; or 0 and the length of an error message, which follows.
LENGTHS = struct.Struct("<II")
MESSAGE_BYTES = 2000  # of an error message at most
PIXEL_BYTES = 4  # red, green, blue, unused: how Pillow stores a pixel
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
        deadline = time.monotonic() + SECONDS
        self._socket.settimeout(SECONDS)
        request = json.dumps({"most_pixels": most_pixels, "formats": formats}).encode()
        self._socket.sendall(LENGTHS.pack(len(request), len(data)) + request)
        self._socket.sendall(data)
        reply = bytearray(LENGTHS.size)
        self._receive(memoryview(reply), deadline)
        width, height = LENGTHS.unpack(reply)
        if not width:
            raise PictureError(self._socket.recv(min(height, MESSAGE_BYTES)).decode(errors="replace"))
        if not 0 < width * height <= most_pixels:
            raise ConnectionError("the process returns something other than an image")
        pixels = np.empty(width * height * PIXEL_BYTES, np.uint8)
        self._receive(pixels.data, deadline)
        import pyarrow as pa

        values = pa.array(pixels)
        return Image.fromarrow(pa.FixedSizeListArray.from_arrays(values, PIXEL_BYTES), "RGB", (width, height))

    def _receive(self, into: memoryview, deadline: float) -> None:
        """Fill memory with what the process sends; OSError if it has ended, or takes too long."""
        while into:
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            received = self._socket.recv_into(into)
            if not received:
                raise ConnectionError("the process has ended")
            into = into[received:]


def clean_environment() -> dict[str, str]:
    """Return the environment of a process that reads hostile files: nothing that may hold a token."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    return inherited | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
