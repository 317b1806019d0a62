"""What scores chance alone gives: those of random pairs of images, and the best ones of texts without a meaning."""

import random
import string
import threading
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from retrieval.metrics import DEFINITIONS, QUANTILES, Metric
from retrieval.search.embedding import QueryEmbedder
from retrieval.search.query import Query
from retrieval.storage.reader import GalleryIndex

TEXTS = 64  # whose best scores are a distribution fine enough for a threshold near its upper end
ROWS = 100_000  # images that these texts search; of a larger gallery, this many are evenly spread
LETTERS = (3, 9)  # of a word

Scores = npt.NDArray[np.float64]


def meaningless_texts() -> list[str]:
    """Return random letters as words, always the same; every third text has three words."""
    chosen = random.Random(0)

    def word() -> str:
        return "".join(chosen.choices(string.ascii_lowercase, k=chosen.randint(*LETTERS)))

    return [" ".join(word() for _ in range(3 if number % 3 == 0 else 1)) for number in range(TEXTS)]


class Chance:
    """The distribution of scores without a meaning, by gallery, feature type and metric. Thread-safe.

    The scores of two images are compared with those of random pairs. Text and image are apart in the space that they
    share, so the best score of a text is compared with the best scores of texts without a meaning.
    """

    def __init__(self, embedder: QueryEmbedder) -> None:
        self._embedder = embedder
        self._lock = threading.Lock()
        # An entry lasts as long as its index is in use.
        self._best: WeakKeyDictionary[GalleryIndex, dict[tuple[str, Metric], Scores]] = WeakKeyDictionary()

    def share(self, index: GalleryIndex, query: Query, score: float) -> float | None:
        """Return the share, from 0 to 1, of chance scores that are worse; None if it is unknown.

        It is unknown for a query of several images or of image and text, and for a text in a gallery on a server.
        """
        known = self._ascending(index, query)
        if known is None:
            return None
        scores, shares = known
        below = float(np.interp(score, scores, shares))
        return 1 - below if DEFINITIONS[query.metric].smaller_is_closer else below

    def score(self, index: GalleryIndex, query: Query, share: float) -> float | None:
        """Return the score that is better than a share, from 0 to 1, of chance scores; None if it is unknown."""
        known = self._ascending(index, query)
        if known is None:
            return None
        scores, shares = known
        return float(np.interp(1 - share if DEFINITIONS[query.metric].smaller_is_closer else share, shares, scores))

    def reads(self, index: GalleryIndex, query: Query) -> bool:
        """Return whether the model knows all words and characters of the query's text."""
        return self._embedder.reads(index, query.features, query.text)

    def _ascending(self, index: GalleryIndex, query: Query) -> tuple[Scores, Scores] | None:
        """Return chance scores in ascending order, and the share of them that is at most each."""
        if query.added or (query.has_text and query.has_picture):
            return None
        if query.has_text:
            if index.manifest.collections:
                return None
            best = self._best_scores(index, query.features, query.metric)
            return best, np.linspace(0, 1, len(best))
        quantiles = index.manifest.background.get(query.features, {}).get(query.metric)
        return (np.array(quantiles), QUANTILES) if quantiles else None

    def _best_scores(self, index: GalleryIndex, features: str, metric: Metric) -> Scores:
        with self._lock:
            known = self._best.setdefault(index, {})
            if (features, metric) not in known:
                vectors = self._embedder.text_vectors(index, features, meaningless_texts())
                rows = np.unique(np.linspace(0, len(index) - 1, min(len(index), ROWS)).astype(np.intp))
                everything = None if len(rows) == len(index) else rows
                closest = np.min if DEFINITIONS[metric].smaller_is_closer else np.max
                scan = index.scan(features)
                best = [closest(scan.scores(metric, vector[None], everything)) for vector in vectors]
                known[features, metric] = np.sort(np.array(best, np.float64))
            return known[features, metric]
