"""Thumbnails are served as the files they are; nothing else of an index is reachable from outside."""

from pathlib import Path

import gradio as gr

from retrieval.indexes import GalleryIndex


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
