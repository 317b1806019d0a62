"""The errors of the project. Each message addresses the person who can act on it and is shown once, at the edge."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RetrievalError(Exception):
    """An error that a person can fix; the message says what happened and what to do."""


class PictureError(RetrievalError):
    """An image cannot be used."""


class PictureUnavailable(PictureError):
    """An image cannot be used at the moment, perhaps later."""


class GalleryError(RetrievalError):
    """A dataset cannot be read as a gallery."""


class ModelError(RetrievalError):
    """A model is not available or cannot be used."""


class IndexingError(RetrievalError):
    """An index is missing, in use, damaged, or incompatible."""


class GalleryChanged(IndexingError):
    """A gallery was built again, renamed or deleted in the meantime; the message contains no path."""


class QueryError(RetrievalError):
    """A query parameter is invalid."""


def cannot_write(folder: Path, error: OSError) -> IndexingError:
    """Return an error that says what to do about a failed write to an index folder."""
    return IndexingError(
        f"The index in `{folder}` cannot be written: {error.strerror or error}. "
        "Free some space or change its permissions, then run the same command again; it resumes where it stopped."
    )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Return a context in which an OSError about the files of an index folder becomes an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise cannot_write(folder, error) from error


SURPRISE = "Something went wrong on our side, and it was logged. Try again, or try another image."
