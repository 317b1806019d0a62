"""The results of a search as CSV or JSON, with what is needed to search again and to credit the images."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from retrieval.analysis.results import csv_text
from retrieval.search.query import Hit, Ranking
from retrieval.storage.reader import GalleryIndex


@dataclass(frozen=True)
class SavedResults:
    """The rankings of a query by some feature types.

    Attributes:
        index: the gallery.
        rankings: at least one.
        search: the query and its settings, as in the address of the page.
        image: the name of the query image; empty if it has none.
    """

    index: GalleryIndex
    rankings: Sequence[Ranking]
    search: str
    image: str = ""

    def to_csv(self) -> str:
        """Return one line per result; texts of a dataset can be opened in a spreadsheet."""
        return csv_text(self._lines())

    def to_json(self) -> str:
        """Return the JSON of the HTTP API, with the credits of each result."""
        rankings = [
            {**ranking.to_json(), "hits": [{**hit.to_json(), **self._credits(hit)} for hit in ranking.hits]}
            for ranking in self.rankings
        ]
        about = {"gallery": self.index.manifest.gallery, "search": self.search, "image": self.image}
        return json.dumps({**about, "rankings": rankings}, indent=1, ensure_ascii=False)

    def _lines(self) -> Iterator[dict[str, Any]]:
        about = {"gallery": self.index.manifest.gallery, "image": self.image}
        for ranking in self.rankings:
            by = ranking.combination.to_json()
            for hit in ranking.hits:
                found = {"duplicates": 0, **hit.to_json()}
                yield {**about, **by, **found, **self._credits(hit), "search": self.search}

    def _credits(self, hit: Hit) -> dict[str, str]:
        origin = self.index.origin(hit.position)
        return {"author": origin.author, "license": origin.license}
