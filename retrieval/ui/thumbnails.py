"""Thumbnails are served as the files they are; nothing else of an index is reachable from outside."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from retrieval import words
from retrieval.indexes import GalleryIndex
from retrieval.query import Ranking


class Thumbnails:
    """Remembers which folders gradio serves already."""

    def __init__(self) -> None:
        """Serve nothing yet."""
        self._served: set[Path] = set()

    def serve(self, index: GalleryIndex) -> None:
        """Let gradio serve the thumbnails of an index without copying them."""
        if index.thumbnails not in self._served:
            gr.set_static_paths([index.thumbnails])
            self._served.add(index.thumbnails)


def strip_of(index: GalleryIndex, ranking: Ranking, moves: Sequence[int | None] | None = None) -> gr.Gallery:
    """Return the hits of a ranking with their captions, and how far each has moved if that is given."""
    hits = [
        (str(index.thumbnail(hit.position)), f"{words.caption(hit)} {words.move(move)}".rstrip())
        for hit, move in zip(ranking.hits, [0] * len(ranking.hits) if moves is None else moves, strict=True)
    ]
    return gr.Gallery(value=hits, selected_index=None)
