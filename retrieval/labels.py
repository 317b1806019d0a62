"""The names of metrics and map layouts, as the page, the command line and the plots show them."""

from collections.abc import Mapping

from retrieval.metrics import DEFINITIONS, Metric

METRICS: Mapping[Metric, str] = {metric: definition.title for metric, definition in DEFINITIONS.items()}
METHODS: Mapping[str, str] = {"pca": "PCA", "tsne": "t-SNE"}
