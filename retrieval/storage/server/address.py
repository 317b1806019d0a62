"""Where an index lies, as a person names it: a folder, a ChromaDB server, or Chroma Cloud."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

CLOUD = "chroma-cloud"


@dataclass(frozen=True)
class Server:
    """A ChromaDB server, and what it asks for; its text form names no secret.

    Attributes:
        url: http(s)://host:port, with a path where a proxy wants one; or `CLOUD`.
        cache: the folder where this machine keeps its copies of finished builds.
        tenant: None takes ChromaDB's default, on Chroma Cloud the one that the key belongs to.
        database: likewise.
        token: the API key of Chroma Cloud, or what is sent as bearer token to a server behind a proxy that wants one.
    """

    url: str
    cache: Path = Path()
    tenant: str | None = None
    database: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def cloud(self) -> bool:
        """Whether this is Chroma Cloud."""
        return self.url == CLOUD

    def __str__(self) -> str:
        """Return the address as it was given."""
        return self.url


def read_address(text: str) -> Path | Server:
    """Return the folder or the server that a text names.

    Raises:
        ValueError: an address that is none of a ChromaDB server, in words.
    """
    if text == CLOUD:
        return Server(CLOUD)
    if "://" not in text:
        return Path(text).expanduser()
    parts = urlsplit(text)
    if "@" in parts.netloc:  # not repeated: it may be a password
        raise ValueError("an address must not hold a name or password; set RETRIEVAL_INDEX_TOKEN instead")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is no address of a ChromaDB server such as http://127.0.0.1:8000")
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} has no valid port") from error
    return Server(text.rstrip("/"))
