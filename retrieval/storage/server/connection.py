"""The connection to a ChromaDB server: found in bounded time, failures in words, and bytes kept as metadata."""

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import chromadb
import httpx
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import (
    AuthorizationError,
    ChromaAuthError,
    NotFoundError,
    QuotaError,
    RateLimitError,
)

from retrieval.engines.chroma_folder import CHROMA_ERRORS
from retrieval.errors import IndexingError
from retrieval.storage.server.address import Server

# Chroma Cloud takes 4,096 bytes in a value of metadata and 32 values in a record
# (docs.trychroma.com/cloud/quotas-limits); no thumbnail is larger than a record.
PIECE = 4000
PIECES = 30
RECORD_BYTES = PIECE * PIECES // 4 * 3  # base64 makes 4 characters of 3 bytes

READ_ROWS = 256  # rows fetched at once; Chroma Cloud answers with 300 at most
FETCHING = "retrieval.fetching"  # logs what is fetched from a server
SLOW = 60.0  # seconds that an answer may take; a large batch is indexed before the answer comes
CONNECT = 5.0
# The graph of records that nobody searches: as small as possible.
NO_GRAPH: Any = {"hnsw": {"space": "l2", "ef_construction": 4, "max_neighbors": 2, "ef_search": 4}}


class ServerUnreachable(IndexingError):
    """The server does not answer; it may later."""


def connect(server: Server) -> Any:
    """Return a client of a server that answers and suits.

    Raises:
        ServerUnreachable: it does not answer.
        IndexingError: it refuses, or is none of the version that this program speaks with.
    """
    settings = ChromaSettings(anonymized_telemetry=False)
    names: dict[str, Any] = {"tenant": server.tenant, "database": server.database}
    names = {name: value for name, value in names.items() if value}
    if server.token and not (server.token.isascii() and server.token.isprintable()):
        raise _invalid_token(server)
    with server_errors(server):
        if server.cloud:
            if not server.token:
                raise IndexingError("Chroma Cloud needs a key: set CHROMA_API_KEY in the environment.")
            client = chromadb.CloudClient(api_key=server.token, settings=settings, **names)
        else:
            headers = {"Authorization": f"Bearer {server.token}"} if server.token else {}
            _check_version(server, headers)
            url = httpx.URL(server.url)
            client = chromadb.HttpClient(
                server.url,
                url.port or (443 if url.scheme == "https" else 80),
                ssl=url.scheme == "https",
                headers=headers,
                settings=settings,
                **names,
            )
    # Chroma waits for ever, and has no setting for it.
    client._server._session.timeout = httpx.Timeout(SLOW, connect=CONNECT)  # type: ignore[attr-defined]
    return client


def _check_version(server: Server, headers: dict[str, str]) -> None:
    """See in bounded time whether a ChromaDB of version 1 answers."""
    answer = httpx.get(f"{server.url}/api/v2/version", headers=headers, timeout=httpx.Timeout(CONNECT * 2))
    if answer.status_code in (401, 403):
        raise ChromaAuthError(f"status {answer.status_code}")
    try:
        version = str(answer.raise_for_status().json())
    except (httpx.HTTPStatusError, ValueError) as error:
        raise IndexingError(
            f"What answers at {server} is no ChromaDB of version 1. Check the address; "
            "a server is started by: chroma run --path DIR --port 8000"
        ) from error
    if not version.startswith("1."):
        raise IndexingError(
            f"The ChromaDB server {server} has version {version[:20]}, this program speaks with version 1."
        )


@contextmanager
def server_errors(server: Server) -> Iterator[None]:
    """Turn whatever a server or the way to it causes into an error in words, without secrets."""
    try:
        yield
    except IndexingError:
        raise
    except (*CHROMA_ERRORS, httpx.HTTPError) as error:
        raise server_error(server, error) from error
    except Exception as error:
        if type(error) is not Exception:  # which Chroma raises for an answer that is not its own, such as a proxy's
            raise
        raise server_error(server, error) from error


def server_error(server: Server, reason: object) -> IndexingError:
    """Return the server_errors form of a failure of a server."""
    if server.token and isinstance(reason, httpx.LocalProtocolError):
        return _invalid_token(server)  # whose own text shows the token, escaped
    text = " ".join(str(reason).split())[:300]
    if server.token:
        text = text.replace(server.token, "...")
    where = "Chroma Cloud" if server.cloud else f"The ChromaDB server {server}"
    if isinstance(reason, (ChromaAuthError, AuthorizationError)):
        return IndexingError(
            f"{where} refuses ({text}). Set {_variable(server)} in the environment to what it asks for."
        )
    if isinstance(reason, (httpx.TransportError, OSError)) or "Could not connect to a Chroma server" in text:
        return ServerUnreachable(
            f"{where} cannot be reached ({text or type(reason).__name__}). Start it, or check the address and the "
            "network; a build that was interrupted goes on where it stopped when the same command runs again."
        )
    if isinstance(reason, (QuotaError, RateLimitError)):
        return IndexingError(
            f"{where} has reached a limit: {text}. Ask for less, run fewer workers at once, or have the limit raised; "
            "a build goes on where it stopped when the same command runs again."
        )
    if isinstance(reason, NotFoundError) and ("enant" in text or "atabase" in text):
        return IndexingError(f"{where}: {text} CHROMA_TENANT and CHROMA_DATABASE name another one.")
    if isinstance(reason, NotFoundError):
        return IndexingError(
            f"{where} has this build no more: the gallery was built anew, or deleted. Try again; if that does not "
            "help, build it again with index_builder.py --rebuild."
        )
    return IndexingError(f"{where} answers with an error: {text or type(reason).__name__}.")


def _variable(server: Server) -> str:
    return "CHROMA_API_KEY" if server.cloud else "RETRIEVAL_INDEX_TOKEN"


def _invalid_token(server: Server) -> IndexingError:
    return IndexingError(
        f"{_variable(server)} in the environment holds characters that cannot be sent to a server: "
        "it must be one line of plain ASCII."
    )


def pack(content: bytes) -> dict[str, str | int]:
    """Return at most `RECORD_BYTES` as metadata of one record."""
    text = b64encode(content).decode()
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    return {"pieces": len(pieces), **{f"piece{i}": piece for i, piece in enumerate(pieces)}}


def unpack(metadata: Mapping[str, Any]) -> bytes:
    """Return what `pack` was given; pieces of a longer content that an upsert has left there do not count."""
    return b64decode("".join(metadata[f"piece{i}"] for i in range(metadata["pieces"])))


def records(server: Server, collection: chromadb.Collection) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield id and metadata of every record of a collection."""
    start = 0
    while True:
        with server_errors(server):
            found: Any = collection.get(include=["metadatas"], limit=READ_ROWS, offset=start)
        yield from zip(found["ids"], found["metadatas"], strict=True)
        if len(found["ids"]) < READ_ROWS:
            return
        start += READ_ROWS
