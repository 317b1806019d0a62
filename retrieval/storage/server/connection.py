"""Connect to a ChromaDB server with timeouts, translate its errors, and store bytes as metadata."""

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

# Chroma Cloud allows 4,096 bytes per metadata value and 32 values per record
# (docs.trychroma.com/cloud/quotas-limits); no thumbnail exceeds a record.
PIECE = 4000
PIECES = 30
RECORD_BYTES = PIECE * PIECES // 4 * 3  # base64 encodes 3 bytes as 4 characters

READ_ROWS = 256  # rows fetched at once; Chroma Cloud returns at most 300
FETCHING = "retrieval.fetching"  # the logger for downloads from a server
SLOW = 60.0  # seconds until a response; the server indexes a large batch before it responds
CONNECT = 5.0
# Records that are never searched get the smallest possible graph.
NO_GRAPH: Any = {"hnsw": {"space": "l2", "ef_construction": 4, "max_neighbors": 2, "ef_search": 4}}


class ServerUnreachable(IndexingError):
    """The server cannot be reached at the moment."""


def connect(server: Server) -> Any:
    """Return a client for a server; raise IndexingError if it is unreachable, refuses access or is unsupported."""
    settings = ChromaSettings(anonymized_telemetry=False)
    names: dict[str, Any] = {"tenant": server.tenant, "database": server.database}
    names = {name: value for name, value in names.items() if value}
    if server.token and not (server.token.isascii() and server.token.isprintable()):
        raise _invalid_token(server)
    with server_errors(server):
        if server.cloud:
            if not server.token:
                raise IndexingError("Chroma Cloud needs an API key. Set the environment variable `CHROMA_API_KEY`.")
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
    # Chroma has no setting for its timeout, which is unlimited.
    client._server._session.timeout = httpx.Timeout(SLOW, connect=CONNECT)  # type: ignore[attr-defined]
    return client


def _check_version(server: Server, headers: dict[str, str]) -> None:
    """Check within seconds that the server is a ChromaDB of version 1."""
    answer = httpx.get(f"{server.url}/api/v2/version", headers=headers, timeout=httpx.Timeout(CONNECT * 2))
    if answer.status_code in (401, 403):
        raise ChromaAuthError(f"status {answer.status_code}")
    try:
        version = str(answer.raise_for_status().json())
    except (httpx.HTTPStatusError, ValueError) as error:
        raise IndexingError(
            f"The server at `{server}` is not a ChromaDB of version 1. Check the address, or start a server with "
            "`chroma run --path DIR --port 8000`."
        ) from error
    if not version.startswith("1."):
        raise IndexingError(
            f"The ChromaDB server `{server}` has version {version[:20]}, but this program needs version 1."
        )


@contextmanager
def server_errors(server: Server) -> Iterator[None]:
    """Translate errors of a server or the network into IndexingError, without secrets."""
    try:
        yield
    except IndexingError:
        raise
    except (*CHROMA_ERRORS, httpx.HTTPError) as error:
        raise server_error(server, error) from error
    except Exception as error:
        if type(error) is not Exception:  # raised for a response by something else, such as a proxy
            raise
        raise server_error(server, error) from error


def server_error(server: Server, reason: object) -> IndexingError:
    """Return the server_errors form of a failure of a server."""
    if server.token and isinstance(reason, httpx.LocalProtocolError):
        return _invalid_token(server)  # the text of the original error shows the token
    text = " ".join(str(reason).split())[:300]
    if server.token:
        text = text.replace(server.token, "...")
    where = "Chroma Cloud" if server.cloud else f"The ChromaDB server `{server}`"
    if isinstance(reason, (ChromaAuthError, AuthorizationError)):
        return IndexingError(
            f"{where} refuses access ({text}). Set the environment variable `{_variable(server)}` to a valid key."
        )
    if isinstance(reason, (httpx.TransportError, OSError)) or "Could not connect to a Chroma server" in text:
        return ServerUnreachable(
            f"{where} cannot be reached ({text or type(reason).__name__}). Start it, or check the address and the "
            "network. To resume an interrupted build, run the same command again."
        )
    if isinstance(reason, (QuotaError, RateLimitError)):
        return IndexingError(
            f"{where} has reached a limit: {text}. Request fewer results, run fewer workers at once, or have the "
            "limit raised. To resume an interrupted build, run the same command again."
        )
    if isinstance(reason, NotFoundError) and ("enant" in text or "atabase" in text):
        return IndexingError(f"{where}: {text} Set `CHROMA_TENANT` and `CHROMA_DATABASE` to existing ones.")
    if isinstance(reason, NotFoundError):
        return IndexingError(
            f"{where} no longer has this build, because the gallery was rebuilt or deleted. Try again. If that "
            "does not help, rebuild the gallery with `python index_builder.py --rebuild`."
        )
    return IndexingError(f"{where} returned an error: {text or type(reason).__name__}.")


def _variable(server: Server) -> str:
    return "CHROMA_API_KEY" if server.cloud else "RETRIEVAL_INDEX_TOKEN"


def _invalid_token(server: Server) -> IndexingError:
    return IndexingError(
        f"The environment variable `{_variable(server)}` contains characters that cannot be sent to a server. "
        "It must be one line of plain ASCII."
    )


def pack(content: bytes) -> dict[str, str | int]:
    """Encode at most `RECORD_BYTES` as the metadata of one record."""
    text = b64encode(content).decode()
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    return {"pieces": len(pieces), **{f"piece{i}": piece for i, piece in enumerate(pieces)}}


def unpack(metadata: Mapping[str, Any]) -> bytes:
    """Decode the metadata by `pack`, ignoring pieces of longer content that an upsert has not removed."""
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
