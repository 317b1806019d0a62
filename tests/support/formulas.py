"""Reference implementations of the metrics: scipy and numpy in float64."""

import numpy as np
from scipy.spatial.distance import cdist

from retrieval.metrics import DEFINITIONS, Metric


def reference(metric, queries, gallery):
    """Return the scores, shape (m, n)."""
    queries, gallery = queries.astype(np.float64), gallery.astype(np.float64)
    match metric:
        case Metric.L1:
            return cdist(queries, gallery, "cityblock")
        case Metric.L2:
            return cdist(queries, gallery, "euclidean")
        case Metric.COSINE:
            return 1 - cdist(queries, gallery, "cosine")
        case Metric.CORRELATION:
            return np.corrcoef(queries, gallery)[: len(queries), len(queries) :]
    raise AssertionError(f"add the formula of {metric}")


def best_first(metric, scores):
    """Return the positions, closest first."""
    return np.argsort(scores if DEFINITIONS[metric].smaller_is_closer else -scores, kind="stable")
