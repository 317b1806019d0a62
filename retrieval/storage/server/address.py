"""Parse the address of an index: a folder, a ChromaDB server, or Chroma Cloud."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

CLOUD = "chroma-cloud"


@dataclass(frozen=True)
class Server:
    """A ChromaDB server and its credentials, which do not appear in its text form."""

    url: str  # http(s)://host:port, with a path if a proxy requires one; or `CLOUD`
    cache: Path = Path()  # the folder for local copies of published builds
    tenant: str | None = None  # None: ChromaDB's default, or the tenant of the key on Chroma Cloud
    database: str | None = None  # None: as for `tenant`
    token: str | None = field(default=None, repr=False)  # Chroma Cloud's API key, or a bearer token for a proxy

    @property
    def cloud(self) -> bool:
        """Whether this is Chroma Cloud."""
        return self.url == CLOUD

    def __str__(self) -> str:
        return self.url


def read_address(text: str) -> Path | Server:
    """Return the folder or server at an address; raise ValueError, with the reason, if the address is invalid."""
    if text == CLOUD:
        return Server(CLOUD)
    if "://" not in text:
        return Path(text).expanduser()
    parts = urlsplit(text)
    if "@" in parts.netloc:  # not repeated: it may be a password
        raise ValueError("an address must not contain a user name or password; set `RETRIEVAL_INDEX_TOKEN` instead")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is not the address of a ChromaDB server, such as `http://127.0.0.1:8000`")
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} has no valid port") from error
    return Server(text.rstrip("/"))
