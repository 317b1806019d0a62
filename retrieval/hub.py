"""Access the Hugging Face Hub in bounded time, with errors that say what to do.

The time is bounded from the moment on that this module is imported.
"""

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
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
from huggingface_hub.utils._validators import validate_repo_id
from typing_extensions import override

from retrieval.errors import RetrievalError

WAIT = 4.0  # seconds without a response after which the Hub counts as unreachable
STALL = 8.0  # seconds without a byte within a file; a working connection may pause this long
PATIENCE = 12.0  # seconds without progress, over all attempts at a URL, after which it is given up
PAUSE = 10.0  # seconds between failures that count as separate; huggingface_hub waits 1 to 8 s between its attempts

UPLOAD_WAIT = 60.0  # seconds for the response to an upload, since the Hub checks and stores the files first
UPLOADS = re.compile(r"/api/(repos/create|validate-yaml|datasets/[^/]+/[^/]+/(preupload|commit)/[^/]+)")

# hf_xet downloads large files with a client of its own, which by default retries a silent server for minutes.
XET_ENVIRONMENT = {"HF_XET_CLIENT_READ_TIMEOUT": f"{STALL:.0f}s", "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2"}
NOT_STORED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
RESUME_HINT = "Run the same command again; files that are complete are not downloaded again."

Kind = Literal["model", "dataset"]


class HubError(RetrievalError):
    """The Hub refused or did not answer; the message names the repository and what to do."""


class HubMissing(HubError):
    """The Hub has no such repository, or does not show it to this user."""


class HubUnreachable(HubError):
    """The Hub is unreachable, down or does not respond."""


class HubStalled(HubUnreachable):
    """A download made no progress over several attempts."""


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub: its commit and the files in it."""

    commit: str
    files: tuple[str, ...]
    configured: bool = False  # whether a dataset's card assigns files to splits
    private: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)  # of the files in bytes, if they were asked for


_access_ended = threading.Event()


def end_access() -> None:
    """Make every further request of huggingface_hub fail, so that visitors cannot make the server use its token."""
    _access_ended.set()


def bound_access() -> None:
    """Bound the time that huggingface_hub and datasets wait for a response or retry a request.

    By default, offline loads and stalled files take up to a minute to fail, and a server that does not respond blocks
    forever. A download that makes progress, however slowly, is not interrupted.
    """
    stalls: dict[str, _Stall] = {}
    hub.set_client_factory(lambda: _BoundedClient(stalls))
    for name, value in XET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request
    logging.getLogger("huggingface_hub").propagate = False  # it has its own handler, so messages would appear twice


@dataclass
class _Stall:
    """Consecutive attempts at a URL that got no farther than the first one, although each may receive some bytes."""

    since: float  # `time.monotonic` at the start of the first attempt
    until: float  # `time.monotonic` at the last failure
    reached: int  # the position in the file that the first attempt got to


class _BoundedClient(httpx2.Client):
    """Waits `WAIT` for a response and `STALL` for its next bytes; gives up a URL after `PATIENCE` without progress."""

    def __init__(self, stalls: dict[str, _Stall]) -> None:
        # The same options as huggingface_hub's own client.
        super().__init__(event_hooks=default_client_factory().event_hooks, follow_redirects=True, timeout=None)
        self._stalls = stalls  # shared by all clients, since huggingface_hub replaces its client after some errors

    @override
    def send(self, request: httpx2.Request, *, stream: bool = False, **more: Any) -> httpx2.Response:
        if _access_ended.is_set():
            raise OfflineModeIsEnabled("this page makes no more requests to the Hub once it is ready")
        limits = request.extensions.setdefault("timeout", {})
        wait = UPLOAD_WAIT if UPLOADS.search(request.url.path) else WAIT
        for phase, most in {"connect": WAIT, "read": wait, "write": wait, "pool": WAIT}.items():
            limits[phase] = min(limits.get(phase) or most, most)
        started = time.monotonic()
        try:
            response = super().send(request, stream=True, **more)
        except httpx2.TransportError as error:
            self.failed(request.url, 0, started, error)
            raise
        response.request.extensions["timeout"]["read"] = STALL
        response.stream = _WatchedStream(response, self)
        if not stream:
            try:
                response.read()
            finally:
                response.close()
        return response

    def reached(self, url: httpx2.URL, position: int) -> None:
        if (stall := self._stalls.get(str(url))) and position > stall.reached:
            self.finished(url)

    def finished(self, url: httpx2.URL) -> None:
        """Record that a URL made progress, which resets its patience."""
        self._stalls.pop(str(url), None)

    def failed(self, url: httpx2.URL, position: int, since: float, error: httpx2.TransportError) -> None:
        """Record that an attempt, started at `since`, failed; raise HubStalled after `PATIENCE` without progress."""
        now = time.monotonic()
        stall = self._stalls.setdefault(str(url), _Stall(since, since, position))
        if since - stall.until > PAUSE:
            stall.since = since
        stall.until = now
        if now - stall.since >= PATIENCE:
            self.finished(url)  # a later request starts afresh
            raise HubStalled(f"no progress with {url.path} for {now - stall.since:.0f} s") from error


class _WatchedStream(httpx2.SyncByteStream):
    """The body of a response; reports its progress to the client."""

    def __init__(self, response: httpx2.Response, client: _BoundedClient) -> None:
        self._stream: Any = response.stream
        self._client, self._url = client, response.request.url
        part = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        self._position = int(part[1]) if part else 0

    @override
    def __iter__(self) -> Iterator[bytes]:
        last_read = time.monotonic()
        try:
            for piece in self._stream:
                self._position += len(piece)
                self._client.reached(self._url, self._position)
                yield piece
                last_read = time.monotonic()
        except httpx2.TransportError as error:
            self._client.failed(self._url, self._position, last_read, error)
            raise
        self._client.finished(self._url)

    @override
    def close(self) -> None:
        self._stream.close()


def is_id(text: str) -> bool:
    """Return whether a text can be an id of the Hub, `org/name`, and nothing else."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1 and text.isascii() and text.isprintable()


def describe(kind: Kind, name: str, revision: str | None = None, sizes: bool = False) -> Repository:
    """Return the commit and files of a repository, with their sizes if asked for, by one request without retries.

    Raise HubUnreachable if the Hub does not respond or fails, HubMissing if there is no such repository, HubError if
    the Hub refuses.
    """
    try:
        api = hub.HfApi()
        ask = api.model_info if kind == "model" else api.dataset_info
        info = ask(name, revision=revision, timeout=WAIT, files_metadata=sizes)
    except Exception as error:
        raise explain_error(kind, name, revision, error) from error
    card, files = info.card_data, info.siblings or ()
    return Repository(
        commit=str(info.sha),
        files=tuple(each.rfilename for each in files),
        configured=bool(card and card.get("configs")),
        private=bool(info.private),
        sizes={each.rfilename: each.size for each in files if each.size is not None},
    )


def fetch(kind: Kind, name: str, revision: str | None, wanted: list[str] | None = None) -> Path:
    """Download a repository, or the files that match `wanted`, and return its folder, whose name is the commit."""
    try:
        # Asking by branch, not by commit, stores in the cache which commit the branch points to, for offline use.
        return Path(hub.snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise explain_error(kind, name, revision, error) from error


def cached(kind: Kind, name: str, revision: str | None) -> Path | None:
    """Return the cached folder of a repository without contacting the Hub; None if files are missing."""
    try:
        return Path(hub.snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True))
    except (OSError, HFValidationError):  # LocalEntryNotFoundError, raised for missing files, is an OSError
        return None


def hf_home() -> str:
    """Return the folder of everything that programs around the Hub keep on this machine."""
    return hub.constants.HF_HOME


def remember(name: str, revision: str | None) -> None:
    """Store in the cache which commit a dataset's branch points to; datasets does not, since it asks by commit."""
    with suppress(EntryNotFoundError):
        hub.hf_hub_download(name, "README.md", repo_type="dataset", revision=revision)


def cached_commit(kind: Kind, name: str, revision: str | None) -> str | None:
    """Return the commit of a branch according to the cache, without contacting the Hub; None if it is unknown."""
    folder = Path(hub.constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    try:
        return (folder / "refs" / (revision or hub.constants.DEFAULT_REVISION)).read_text()
    except (OSError, ValueError):
        return None


def is_logged_in() -> bool:
    """Return whether huggingface_hub has a token to send."""
    return hub.get_token() is not None


def create_dataset(name: str, private: bool) -> None:
    """Create a dataset; one that exists stays private or public. Raise HubError if that fails."""
    try:
        hub.HfApi().create_repo(name, repo_type="dataset", private=private, exist_ok=True)
    except Exception as error:
        raise explain_upload_error(name, error) from error


def upload(name: str, folder: Path, obsolete: Collection[str], parent: str, message: str) -> str:
    """Replace files of a dataset in one commit, so that readers never see a mixture, and return the commit.

    Args:
        name: the id of the dataset.
        folder: the files to upload.
        obsolete: the files to delete.
        parent: the commit that is replaced; another one meanwhile is an error.
        message: the title of the commit.

    Raises:
        HubError: the Hub refuses or does not answer.
    """
    for variable, value in XET_ENVIRONMENT.items():
        if os.environ.get(variable) == value:
            del os.environ[variable]  # the limits for downloads are too short for the end of an upload
    operations: list[hub.CommitOperationAdd | hub.CommitOperationDelete] = [
        hub.CommitOperationAdd(path.relative_to(folder).as_posix(), path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    operations += [hub.CommitOperationDelete(each) for each in obsolete]
    try:
        done = hub.HfApi().create_commit(
            name, operations, commit_message=message, repo_type="dataset", parent_commit=parent
        )
    except Exception as error:
        raise explain_upload_error(name, error) from error
    return str(done.oid)


def explain_upload_error(name: str, error: Exception) -> RetrievalError:
    """Return an error that says what to do about an exception raised by an upload; re-raise unknown ones."""
    what = f"The dataset {name!r} cannot be written"
    again = "Run the same command again."
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403, 404):
        return HubError(
            f"{what}: the Hub does not accept your token for it. Log in by `hf auth login` with a token that may write "
            f"to {name.split('/')[0]!r}, or choose another name."
        )
    if status == 412:
        return HubError(f"{what}, because it has been changed meanwhile. {again}")
    if isinstance(error, (HfHubHTTPError, ValueError)):
        return HubError(f"{what}: {' '.join(str(error).split())[:300]}")
    if isinstance(error, HubStalled):
        return HubStalled(f"{what}: the Hub stopped answering ({error}). {again}")
    if isinstance(error, (OSError, httpx2.HTTPError, RuntimeError)):  # hf_xet raises RuntimeError
        return HubUnreachable(f"{what}: the connection to the Hub failed ({first_line(error)}). {again}")
    raise error


def explain_error(kind: Kind, name: str, revision: str | None, error: Exception) -> RetrievalError:
    """Return an error that says what to do about an exception raised by a Hub call; re-raise any other exception."""
    what = f"{'Model' if kind == 'model' else 'Dataset'} {name!r}"
    flag = "--model-revision" if kind == "model" else "--revision"
    if isinstance(error, HubStalled):
        return HubStalled(f"{what} could not be downloaded: the Hub stopped sending data ({error}). {RESUME_HINT}")
    if isinstance(error, HubError):
        return error
    if isinstance(error, HFValidationError):
        return HubError(f"{what} is neither a local folder nor a Hub id (`org/name`). Check the spelling.")
    if isinstance(error, GatedRepoError):
        return HubError(f"{what} is gated: accept its terms on its Hub page and log in with `hf auth login`.")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{what} has no revision {revision!r} on the Hub. Check `{flag}`.")
    if isinstance(error, RepositoryNotFoundError):
        return HubMissing(
            f"{what} is neither a local folder nor on the Hub, or it is private and you are not logged in "
            "(`hf auth login`). Check the spelling."
        )
    if isinstance(error, HfHubHTTPError):
        return HubUnreachable(f"{what}: the Hub returned an error ({first_line(error)}). Try again later.")
    if isinstance(error, OSError) and error.errno in NOT_STORED:
        return HubError(
            f"{what} cannot be stored: {first_line(error)}. Free some space, or set `HF_HOME` to another folder."
        )
    if isinstance(error, (httpx2.RemoteProtocolError, RuntimeError)):  # hf_xet raises RuntimeError
        return HubStalled(
            f"{what} could not be downloaded: the connection broke off ({first_line(error)}). {RESUME_HINT}"
        )
    if isinstance(error, (OSError, httpx2.HTTPError)):
        return HubUnreachable(
            f"{what} is not on this machine and the Hub is unreachable ({first_line(error)}). Check the network."
        )
    raise error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 300 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


bound_access()
