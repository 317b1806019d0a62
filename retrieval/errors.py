"""The errors of the project: each is worded for the person who can act on it and shown once, at the edge."""

from pathlib import Path


class RetrievalError(Exception):
    """Anything that a person can put right; the message says what and how."""


class PictureError(RetrievalError):
    """A picture that cannot be used."""


class GalleryError(RetrievalError):
    """A data set that cannot be read as a gallery."""


class ModelError(RetrievalError):
    """A model that cannot be had or used."""


class IndexingError(RetrievalError):
    """An index that is missing, in use, damaged, or made for something else."""


class SharesMissing(IndexingError):
    """This worker has done its share, and others have not done theirs yet; whoever does the last one publishes."""


class QueryError(RetrievalError):
    """A search that was asked for in words that do not exist."""


def cannot_write(folder: Path, error: OSError) -> IndexingError:
    """Return the worded form of a failed write below an index's folder."""
    return IndexingError(
        f"The index in {folder} cannot be written: {error.strerror or error}. "
        "Make room or give access, then run the same command again; it goes on where it stopped."
    )


SURPRISE = "Something went wrong on our side, and it was written to the log. Try again, or try another picture."
