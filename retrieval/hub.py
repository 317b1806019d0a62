"""The Hugging Face Hub in bounded time, with worded answers: what a repository holds, or why it cannot be had."""

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2
import huggingface_hub as hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils._http import default_client_factory

from retrieval.errors import RetrievalError

WAIT = 4.0  # seconds without an answer after which the Hub counts as unreachable
STALL = 8.0  # seconds without a byte in the midst of a file; a line that lives may well pause
PATIENCE = 12.0  # seconds without progress, over all tries of an address, after which it is tried no more
PAUSE = 10.0  # seconds; huggingface_hub rests 1 to 8 s between two tries, and longer ago is another matter

# Large files come by a client of its own (hf_xet), which would try a silent store for minutes.
XET = {"HF_XET_CLIENT_READ_TIMEOUT": f"{STALL:.0f}s", "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2"}
AGAIN = "Run the same command again; the files that came whole are kept."

Kind = Literal["model", "dataset"]


class HubError(RetrievalError):
    """The Hub said no, or nothing; the message names the repository and what to do."""


class HubUnreachable(HubError):
    """Nothing came back: there is no network, or the Hub is down or silent."""


class HubStalled(HubUnreachable):
    """A file did not arrive, however often it was asked for."""


@dataclass(frozen=True)
class Repository:
    """What the Hub told of a repository: the commit, and the files in it."""

    commit: str
    files: tuple[str, ...]
    configured: bool = False  # a data set whose card says which files are which split


_ended = threading.Event()


def end_access() -> None:
    """Let huggingface_hub, in this process and for good, ask nobody any more: every request fails at once.

    For a page whose visitors cannot build: no search of theirs may make this machine ask the Hub, which would be in
    its owner's name and with the owner's token.
    """
    _ended.set()


def bound_access() -> None:
    """Let no request of huggingface_hub (and so of datasets) wait without end, nor be tried again for minutes.

    Left alone, an uncached load takes 23 to 46 s to fail offline, a file that stalls takes 51 s, and a silent server
    hangs. A download that goes on, however slowly, is left alone.
    """
    silences: dict[str, _Silence] = {}
    hub.set_client_factory(lambda: _BoundedClient(silences))
    for name, value in XET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own, and would tell all twice


@dataclass
class _Silence:
    """Tries of an address in a row of which none got farther than the first: since when, until when, how far.

    Times are seconds of the clock, `reached` counts bytes of the file. A server that stalls in the same place gives
    the bytes before it again and again, so not every byte is a sign of life.
    """

    since: float
    until: float
    reached: int


class _BoundedClient(httpx2.Client):
    """Waits `WAIT` for an answer and `STALL` for more of it; gives an address up after `PATIENCE` without progress."""

    def __init__(self, silences: dict[str, _Silence]) -> None:
        """Share `silences` with the client before, which huggingface_hub closes after some errors."""
        # As huggingface_hub makes it for itself.
        super().__init__(event_hooks=default_client_factory().event_hooks, follow_redirects=True, timeout=None)
        self._silences = silences

    def send(self, request: httpx2.Request, *, stream: bool = False, **more: Any) -> httpx2.Response:
        """Send a request as `httpx2.Client` does.

        Raises:
            HubStalled: there was no progress for `PATIENCE`; huggingface_hub tries all other failures again.
            OfflineModeIsEnabled: nobody may be asked any more, see `end_access`.
        """
        if _ended.is_set():
            raise OfflineModeIsEnabled("this page has all that it needs, and asks the Hub for nothing more")
        limits = request.extensions.setdefault("timeout", {})
        for phase in ("connect", "read", "write", "pool"):
            limits[phase] = min(limits.get(phase) or WAIT, WAIT)
        started = time.monotonic()
        try:
            response = super().send(request, stream=True, **more)
        except httpx2.TransportError as error:
            self.failed(request.url, 0, started, error)
            raise
        response.request.extensions["timeout"]["read"] = STALL
        response.stream = _HeardStream(response, self)
        if not stream:
            try:
                response.read()
            finally:
                response.close()
        return response

    def reached(self, url: httpx2.URL, position: int) -> None:
        """Note how far into a file a try got."""
        if (silence := self._silences.get(str(url))) and position > silence.reached:
            self.finished(url)

    def finished(self, url: httpx2.URL) -> None:
        """Note that an address gave all it was asked for."""
        self._silences.pop(str(url), None)

    def failed(self, url: httpx2.URL, position: int, since: float, error: httpx2.TransportError) -> None:
        """Note that a try failed after `since` without getting beyond `position`; raise if patience ends."""
        now = time.monotonic()
        silence = self._silences.setdefault(str(url), _Silence(since, since, position))
        if since - silence.until > PAUSE:
            silence.since = since
        silence.until = now
        if now - silence.since >= PATIENCE:
            self.finished(url)  # whoever asks anew has the whole patience
            raise HubStalled(f"nothing more of {url.path} for {now - silence.since:.0f} s") from error


class _HeardStream(httpx2.SyncByteStream):
    """The body of an answer, told to the client as it comes."""

    def __init__(self, response: httpx2.Response, client: _BoundedClient) -> None:
        self._stream: Any = response.stream
        self._client, self._url = client, response.request.url
        part = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        self._position = int(part[1]) if part else 0

    def __iter__(self) -> Iterator[bytes]:
        heard = time.monotonic()
        try:
            for piece in self._stream:
                self._position += len(piece)
                self._client.reached(self._url, self._position)
                yield piece
                heard = time.monotonic()
        except httpx2.TransportError as error:
            self._client.failed(self._url, self._position, heard, error)
            raise
        self._client.finished(self._url)

    def close(self) -> None:
        self._stream.close()


def describe(kind: Kind, name: str, revision: str | None = None) -> Repository:
    """Ask the Hub, once and without a retry, for the commit and files of a repository.

    Raises:
        HubUnreachable: no answer.
        HubError: unknown, gated or private repository, unknown revision, or an answer that is an error.
    """
    try:
        api = hub.HfApi()
        ask = api.model_info if kind == "model" else api.dataset_info
        info = ask(name, revision=revision, timeout=WAIT)
    except Exception as error:
        raise worded(kind, name, revision, error) from error
    card = info.card_data
    return Repository(
        str(info.sha), tuple(sibling.rfilename for sibling in info.siblings or ()), bool(card and card.get("configs"))
    )


def fetch(kind: Kind, name: str, revision: str | None, wanted: list[str] | None = None) -> Path:
    """Download a repository, or the files that match `wanted`, and return its folder, which is named by the commit.

    What is cached is not downloaded again.

    Raises:
        HubError: it did not arrive.
    """
    try:
        # By branch, not by commit: so the cache knows which commit the branch is when the Hub is gone.
        return Path(hub.snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise worded(kind, name, revision, error) from error


def cached(kind: Kind, name: str, revision: str | None) -> Path | None:
    """Return the cached folder of what `fetch` downloaded, asking nobody; None if files of it are missing."""
    try:
        return Path(hub.snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True))
    except (OSError, HFValidationError):  # what is not cached raises LocalEntryNotFoundError, an OSError
        return None


def remember(name: str, revision: str | None) -> None:
    """Let the cache know which commit a data set's branch is now; datasets asks by commit, so it would not."""
    with suppress(EntryNotFoundError):
        hub.hf_hub_download(name, "README.md", repo_type="dataset", revision=revision)


def cached_commit(kind: Kind, name: str, revision: str | None) -> str | None:
    """Return the commit that a branch was when it was last asked for, asking nobody; None if it never was."""
    folder = Path(hub.constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    try:
        return (folder / "refs" / (revision or hub.constants.DEFAULT_REVISION)).read_text()
    except (OSError, ValueError):
        return None


def worded(kind: Kind, name: str, revision: str | None, error: Exception) -> RetrievalError:
    """Return the worded form of what a call to the Hub raised; an error of another origin is raised again."""
    what = f"{'Model' if kind == 'model' else 'Data set'} {name!r}"
    flag = "--model-revision" if kind == "model" else "--revision"
    if isinstance(error, HubStalled):
        return HubStalled(f"{what} did not arrive, the Hub stopped sending ({error}). {AGAIN}")
    if isinstance(error, HubError):
        return error
    if isinstance(error, HFValidationError):
        return HubError(f"{what} is neither a folder here nor a Hub id (org/name). Check the spelling.")
    if isinstance(error, GatedRepoError):
        return HubError(f"{what} is gated: accept its terms on its Hub page and log in with `hf auth login`.")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{what} has no revision {revision!r} on the Hub. Check {flag}.")
    if isinstance(error, RepositoryNotFoundError):
        return HubError(
            f"{what} is neither a folder here nor on the Hub, or it is private and you are not logged in "
            "(`hf auth login`). Check the spelling."
        )
    if isinstance(error, HfHubHTTPError):
        return HubUnreachable(f"{what}: the Hub answered with an error ({first_line(error)}). Try again later.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT):
        return HubError(f"{what} cannot be stored: {first_line(error)}. Make room, or set HF_HOME to another folder.")
    if isinstance(error, (httpx2.RemoteProtocolError, RuntimeError)):  # a RuntimeError is hf_xet's
        return HubStalled(f"{what} did not arrive, the Hub broke off ({first_line(error)}). {AGAIN}")
    if isinstance(error, (OSError, httpx2.HTTPError)):
        return HubUnreachable(
            f"{what} is not on this machine and the Hub cannot be reached ({first_line(error)}). Check the network."
        )
    raise error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, cut to a readable length."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
