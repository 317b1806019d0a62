"""The Hugging Face Hub in bounded time, with worded answers: what a repository holds, or why it cannot be had."""

import errno
import logging
import threading
from dataclasses import dataclass
from typing import Any, Literal

import huggingface_hub as hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import default_client_factory

from retrieval.errors import RetrievalError

WAIT = 4.0  # seconds of silence after which the Hub counts as unreachable

Kind = Literal["model", "dataset"]


class HubError(RetrievalError):
    """The Hub said no, or nothing; the message names the repository and what to do."""


class HubUnreachable(HubError):
    """Nothing came back: there is no network, or the Hub is down or silent."""


@dataclass(frozen=True)
class Repository:
    """What the Hub told of a repository: the commit, and the files in it."""

    commit: str
    files: tuple[str, ...]


_ended = threading.Event()


def end_access() -> None:
    """Let huggingface_hub, in this process and for good, ask nobody any more: every request fails at once.

    For a page whose visitors cannot build: no search of theirs may make this machine ask the Hub, which would be in
    its owner's name and with the owner's token.
    """
    _ended.set()


def bound_access(seconds: float = WAIT) -> None:
    """Let no request of huggingface_hub (and so of datasets) wait longer than `seconds` for an answer.

    Left alone, an uncached load takes 23 to 46 s to fail offline, and hangs on a silent server.
    """

    def bounded() -> Any:  # an httpx2.Client, as huggingface_hub makes it for itself
        client = default_client_factory()

        def cap(request: Any) -> None:
            if _ended.is_set():
                raise OfflineModeIsEnabled("this page has all that it needs, and asks the Hub for nothing more")
            timeout = request.extensions.setdefault("timeout", {})
            for phase in ("connect", "read", "write", "pool"):
                timeout[phase] = min(timeout.get(phase) or seconds, seconds)

        hooks = client.event_hooks
        hooks["request"] = [*hooks.get("request", []), cap]
        client.event_hooks = hooks
        return client

    hub.set_client_factory(bounded)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request


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
    return Repository(str(info.sha), tuple(sibling.rfilename for sibling in info.siblings or ()))


def worded(kind: Kind, name: str, revision: str | None, error: Exception) -> RetrievalError:
    """Return the worded form of what a call to the Hub raised; an error of another origin is raised again."""
    what = f"{'Model' if kind == 'model' else 'Data set'} {name!r}"
    flag = "--model-revision" if kind == "model" else "--revision"
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
    # The network stack below huggingface_hub has errors of its own that are no OSError.
    network = type(error).__module__.split(".")[0] in {"httpx", "httpx2", "httpcore", "httpcore2"}
    if isinstance(error, (OSError, RuntimeError)) or network:
        return HubUnreachable(
            f"{what} is not on this machine and the Hub cannot be reached ({first_line(error)}). Check the network."
        )
    raise error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, cut to a readable length."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
