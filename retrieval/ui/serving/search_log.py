"""One log line for each search."""

import logging

from retrieval.search.query import Ranking

log = logging.getLogger("search")


def searched(kind: str, ranking: Ranking, top_k: int) -> None:
    """Log how a visitor searched and how long it took, but nothing of the query; `top_k` is as requested."""
    timings = ranking.timings
    fields = {
        "gallery": ranking.gallery,
        "pictures": ranking.size,
        "features": str(ranking.features),
        "metric": str(ranking.metric),
        "engine": str(ranking.engine),
        "k": top_k,
        "hits": len(ranking.hits),
        "decode_ms": round(timings.decode, 1),
        "features_ms": round(timings.features, 1),
        "search_ms": round(timings.search, 1),
        "total_ms": round(timings.total, 1),
    }
    log.info(kind, extra={"fields": fields})
