"""Find the images of a gallery on which two feature types disagree most."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.analysis.queries import SEED, leave_one_out
from retrieval.errors import GalleryError, QueryError
from retrieval.metrics import Metric
from retrieval.search.query import Combination
from retrieval.search.ranking import rank
from retrieval.storage.reader import GalleryIndex

SAMPLE = 300  # images
TOP_K = 8
PER_CLASS = 2  # images shown, so that one class does not fill the list
BATCH = 10  # images between two reports of progress
SCANNED_MAX = 30_000_000  # scores by each feature type; of a gallery above 100,000 images the sample is smaller


@dataclass(frozen=True)
class Disagreement:
    """What two feature types find for an image of the gallery, without that image itself.

    Attributes:
        position: of the image.
        correct: how many of the first results of each have the label of the image; None if it has none.
        shared: how many of the first results are the same.
    """

    position: int
    correct: tuple[int, int] | None
    shared: int


class Disagreements:
    """A comparison of two feature types over a random sample of a gallery, which is always the same sample.

    In a gallery with labels, the sample has only images that share their label with another one.
    """

    def __init__(self, index: GalleryIndex, features: Sequence[str], metric: Metric, sample: int = SAMPLE) -> None:
        """Choose the sample; raise QueryError if the gallery lacks a feature type or its vectors are on a server."""
        if len(set(features)) != 2:
            raise QueryError("Choose exactly two feature types to compare.")
        index.check_matrices()
        for name in features:
            index.check_features(name)
        self.index = index
        self.features = (features[0], features[1])
        self.metric = metric
        self.found: list[Disagreement] = []
        most = max(BATCH, min(sample, SCANNED_MAX // max(1, len(index))))
        try:
            self._positions = leave_one_out(index, most).positions
            self.labelled = True
        except GalleryError:
            drawn = np.random.default_rng(SEED).choice(len(index), min(most, len(index)), replace=False)
            self._positions, self.labelled = np.sort(drawn), False

    def __len__(self) -> int:
        return len(self._positions)

    def run(self) -> Iterator[None]:
        """Compare image by image, by the exact scan; yield after every `BATCH` of them."""
        for start in range(0, len(self), BATCH):
            self.found += [self._compare(position) for position in self._positions[start : start + BATCH].tolist()]
            yield

    def _compare(self, position: int) -> Disagreement:
        one, other = (self._first(position, name) for name in self.features)
        labels = self.index.labels
        correct = [sum(labels[each] == labels[position] for each in found) for found in (one, other)]
        return Disagreement(position, (correct[0], correct[1]) if self.labelled else None, len(set(one) & set(other)))

    def _first(self, position: int, features: str) -> list[int]:
        [vector] = self.index.vectors_at(features, np.array([position]))
        positions, _ = rank(self.index, Combination(features, self.metric), vector, TOP_K + 1)
        return [each for each in positions.tolist() if each != position][:TOP_K]

    def better(self, features: int) -> list[Disagreement]:
        """Return the images for which the feature type 0 or 1 finds more correct results, most first."""
        gains = [(each.correct[features] - each.correct[1 - features], each) for each in self.found if each.correct]
        return [each for gain, each in sorted(gains, key=lambda gain: -gain[0]) if gain > 0]

    def strongest(self, features: int, count: int) -> list[Disagreement]:
        """Return the first of `better`, at most `PER_CLASS` of each class."""
        seen, kept = Counter[str](), list[Disagreement]()
        for each in self.better(features):
            label = self.index.labels[each.position]
            seen[label] += 1
            if seen[label] <= PER_CLASS:
                kept.append(each)
        return kept[:count]

    def least_shared(self, count: int) -> list[Disagreement]:
        """Return the images for which the two find the fewest of the same images, fewest first."""
        return sorted((each for each in self.found if each.shared < TOP_K), key=lambda each: each.shared)[:count]
