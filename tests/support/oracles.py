"""Reference implementations of retrieval measures, fed with rankings."""

from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np
import pytrec_eval

# Our names -> those of trec_eval and ir-measures.
TREC = {"P": "P", "R": "recall", "nDCG": "ndcg_cut", "success": "success"}
IR = {"P": "P", "R": "R", "nDCG": "nDCG", "success": "Success"}
WHOLE_TREC = {"R-precision": "Rprec", "mAP": "map", "MRR": "recip_rank"}
WHOLE_IR = {"R-precision": "Rprec", "mAP": "AP", "MRR": "RR"}

Qrels = Mapping[str, Mapping[str, int]]
Rankings = Mapping[str, Sequence[str]]


def scored(rankings: Rankings) -> dict[str, dict[str, float]]:
    """Return runs with n - rank as the score: trec_eval sorts by float32 score and then by id, whatever the ranking."""
    return {query: {id: float(len(ids) - at) for at, id in enumerate(ids)} for query, ids in rankings.items()}


def by_trec_eval(qrels: Qrels, rankings: Rankings, name: str) -> np.ndarray:
    """Return a measure of each query by pytrec-eval-terrier; the name is ours."""
    kind, _, k = name.partition("@")
    theirs = WHOLE_TREC.get(name) or f"{TREC[kind]}_{k}"
    asked = WHOLE_TREC.get(name) or f"{TREC[kind]}.{k}"
    found = pytrec_eval.RelevanceEvaluator(qrels, {asked}).evaluate(scored(rankings))
    return np.array([found[query][theirs] for query in rankings])


def by_ir_measures(qrels: Qrels, rankings: Rankings, name: str) -> np.ndarray:
    """Return a measure of each query by ir-measures; the name is ours."""
    kind, _, k = name.partition("@")
    theirs = ir_measures.parse_measure(WHOLE_IR.get(name) or f"{IR[kind]}@{k}")
    found = {each.query_id: each.value for each in ir_measures.iter_calc([theirs], qrels, scored(rankings))}
    return np.array([found[query] for query in rankings])
