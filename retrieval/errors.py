"""The errors of the project: each is worded for the person who can act on it and shown once, at the edge."""


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


class QueryError(RetrievalError):
    """A search that was asked for in words that do not exist."""
