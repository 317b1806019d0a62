"""Measure ChromaDB's HNSW graphs by parameters: recall@10 against the exact scan, query time, build time and size.

python index_builder.py --model mini --dataset icons          index the icons, whose vectors are used here
python benchmarks/hnsw.py build clustered 100 16 --n 100000   build one graph and keep it; takes minutes
python benchmarks/hnsw.py ask                                 query all built graphs; seconds each
python benchmarks/hnsw.py report                              print all figures and draw benchmarks/hnsw.svg
python benchmarks/hnsw.py all --n 2000                        the whole sweep on a small scale

Each step appends its figures to a file of JSON lines, by default benchmarks/hnsw.jsonl. Later figures replace earlier
ones.
"""

import argparse
import itertools
import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import numpy.typing as npt
from chromadb.config import Settings
from report import report
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from retrieval.engines.chroma_fill import AT_ONCE
from retrieval.engines.chroma_folder import GRAPH
from retrieval.features import Vectors

KINDS = ("clustered", "uniform", "pixels")
SWEEP = tuple(itertools.product((100, 200), (16, 32, 48)))  # ef_construction, max_neighbors
EF_SEARCH = (25, 50, 100, 200, 400)
DIMENSIONS = 512
QUERIES = 500
K = 10
ISOTROPIC = 0.1  # share of the noise that is isotropic
COLOURS = {"clustered": "#0d9488", "pixels": "#b45309", "uniform": "#8b5cf6"}  # legible on white and on black


def to_unit(vectors: npt.NDArray[np.floating[Any]]) -> Vectors:
    """Return the vectors scaled to length 1."""
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def nearest_distances(queries: Vectors, gallery: Vectors, own: bool = False) -> npt.NDArray[np.float64]:
    """Return the L2 distance of unit vectors to their nearest neighbour; `own`: the queries are the gallery."""
    dots = queries @ gallery.T
    if own:
        np.fill_diagonal(dots, -1)
    return np.sqrt(np.maximum(0, 2 - 2 * dots.max(axis=1).astype(np.float64)))


def clustered(real: Vectors, n: int) -> tuple[Vectors, Vectors]:
    """Return n gallery vectors and QUERIES query vectors that resemble real embeddings, unit length, 512 dimensions.

    The real embeddings, shape (m, d), are mapped to 512 dimensions by a random orthonormal map. Each new vector is one
    of them plus normal noise. The noise has the covariance of the real embeddings (a tenth of it isotropic). Its length
    is the distance of that embedding to its nearest neighbour, times a common factor. The factor is found by iteration,
    so that the median distance of the queries to their nearest neighbour is that of the real embeddings.
    """
    chance = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(chance.standard_normal((DIMENSIONS, real.shape[1])))
    lifted = real @ rotation.T
    covariance = np.cov(lifted.T)
    covariance *= (1 - ISOTROPIC) / np.trace(covariance)
    root = np.linalg.cholesky(covariance + ISOTROPIC / DIMENSIONS * np.eye(DIMENSIONS)).astype(np.float32)
    wanted = nearest_distances(real, real, own=True)
    radius = np.maximum(wanted, np.quantile(wanted, 0.05)).astype(np.float32)  # otherwise duplicates remain duplicates
    centres = chance.integers(0, len(real), n + QUERIES)
    noise = chance.standard_normal((n + QUERIES, DIMENSIONS), np.float32) @ root.T
    factor = 1.0
    for _ in range(5):
        made = to_unit(lifted[centres] + factor * radius[centres, None] * noise)
        found = nearest_distances(made[n:], made[:n])
        factor *= float(np.median(wanted) / np.median(found))
    for name, values in (("real embeddings", wanted), ("generated vectors", found)):
        shown = ", ".join(f"{value:.3f}" for value in np.quantile(values, (0.1, 0.25, 0.5, 0.75, 0.9)))
        print(f"distance to the nearest neighbour, {name}: {shown} (10, 25, 50, 75, 90 %)")
    return made[:n], made[n:]


def vectors_of(kind: str, n: int, index: Path) -> tuple[Vectors, Vectors]:
    """Return the gallery vectors and query vectors of a kind; no query is in the gallery.

    Pixels are those of the icons, with every tenth icon as a query, whatever `n` is.
    """
    snapshot = index / "icons" / json.loads((index / "icons" / "manifest.json").read_text())["snapshot"]
    if kind == "clustered":
        return clustered(np.load(snapshot / "clip.npy"), n)
    if kind == "uniform":
        vectors = to_unit(np.random.default_rng(0).standard_normal((n + QUERIES, DIMENSIONS), np.float32))
        return vectors[:n], vectors[n:]
    pixels = np.load(snapshot / "pixels.npy")
    asked = np.arange(len(pixels)) % 10 == 0
    return pixels[~asked], pixels[asked]


def opened(folder: Path, space: str, construction: int, neighbours: int) -> Any:
    """Return a client and its collection in a folder, configured like the product's collections."""
    client = chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))
    graph = {**GRAPH, "space": space, "ef_construction": construction, "max_neighbors": neighbours, "ef_search": 100}
    configuration: Any = {"hnsw": graph}
    return client, client.get_or_create_collection("measured", configuration=configuration, embedding_function=None)


def build_graph(arguments: argparse.Namespace, kind: str, construction: int, neighbours: int) -> None:
    """Build one graph in batches like the builder, or resume its build, and record seconds and bytes."""
    gallery, _ = vectors_of(kind, arguments.n, arguments.index)
    folder = arguments.work / f"{kind}-{len(gallery)}-{construction}-{neighbours}"
    client, collection = opened(folder, "l2" if kind == "pixels" else "ip", construction, neighbours)
    done = collection.count()
    before = known_figures(arguments.figures)[folder.name]["build s"] if done else 0.0
    started = time.perf_counter()
    for start in tqdm(range(done, len(gallery), AT_ONCE), desc=folder.name, mininterval=10, leave=False):
        if time.perf_counter() - started > 60 * arguments.minutes:
            break
        rows = range(start, min(start + AT_ONCE, len(gallery)))
        about: Any = [{"label": ""} for _ in rows]
        collection.upsert(ids=[str(row) for row in rows], embeddings=gallery[rows.start : rows.stop], metadatas=about)
    seconds = before + time.perf_counter() - started
    done = collection.count()
    client.close()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    graph = sum(file.stat().st_size for file in folder.rglob("*.bin"))
    write(arguments, folder.name, {"rows": done, "build s": seconds, "MB": size / 1e6, "graph MB": graph / 1e6})
    print(f"{folder.name}: {done:,} rows after {seconds:.0f} s")


def ask_graph(arguments: argparse.Namespace, folder: Path) -> None:
    """Query a graph one vector at a time with each ef_search, and record recall and milliseconds."""
    kind, n, construction, neighbours = folder.name.split("-")
    gallery, queries = vectors_of(kind, int(n), arguments.index)
    squares = np.square(gallery).sum(axis=1)
    exact = []
    for query in queries:  # the order by L2, which for unit vectors is that by the inner product
        near = squares - 2 * np.vecdot(gallery, query)
        exact.append({str(row) for row in np.argpartition(near, K)[:K]})
    for ef in EF_SEARCH:
        client, collection = opened(folder, "l2" if kind == "pixels" else "ip", int(construction), int(neighbours))
        collection.modify(configuration={"hnsw": {"ef_search": ef}})
        client.close()
        client, collection = opened(folder, "l2" if kind == "pixels" else "ip", int(construction), int(neighbours))
        spent, found = [], []
        for round_, query in itertools.product(range(2), queries):
            started = time.perf_counter()
            answer = collection.query(query_embeddings=query[None], n_results=K, include=[])
            if round_:  # the first round only fills caches
                spent.append((time.perf_counter() - started) * 1e3)
                found.append(answer["ids"][0])
        client.close()
        recall = np.mean([len(wanted & set(got)) / K for wanted, got in zip(exact, found, strict=True)])
        median, slow = np.quantile(spent, (0.5, 0.95))
        values = {"recall@10": float(recall), "ms": float(median), "p95 ms": float(slow)}
        write(arguments, f"{folder.name}-{ef}", values)
        print(f"{folder.name} ef_search {ef}: {values}")
    if not arguments.keep:
        shutil.rmtree(folder)


def write(arguments: argparse.Namespace, name: str, values: dict[str, float]) -> None:
    """Append one line of figures."""
    with arguments.figures.open("a", encoding="utf-8") as file:
        file.write(json.dumps({name: {key: round(value, 4) for key, value in values.items()}}) + "\n")


def known_figures(path: Path) -> dict[str, dict[str, float]]:
    """Return the latest figures of each graph, and of each graph with each ef_search."""
    known: dict[str, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        known |= json.loads(line)
    return known


def figures_of(path: Path) -> list[dict[str, object]]:
    """Return one row for each graph and ef_search that was queried."""
    known = known_figures(path)
    rows: list[dict[str, object]] = []
    for name in sorted(known, key=lambda each: [int(part) if part.isdecimal() else part for part in each.split("-")]):
        if name.count("-") == 4:
            kind, n, construction, neighbours, ef = name.split("-")
            graph = {"ef_construction": int(construction), "max_neighbors": int(neighbours), "ef_search": int(ef)}
            built = known[name.rsplit("-", 1)[0]]
            rows.append({"vectors": kind, "n": int(n), **graph, **known[name], **built})
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot recall over milliseconds, one line per graph; the label names the size of larger galleries."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams.update({"svg.hashsalt": "hnsw", "svg.fonttype": "none"})  # makes the file small and reproducible
    grey = "#808080"
    kinds = [kind for kind in KINDS if any(row["vectors"] == kind for row in rows)]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, kind in zip(np.ravel(figure.subplots(1, len(kinds))), kinds, strict=True):
        shown = [row for row in rows if row["vectors"] == kind]
        n = min(row["n"] for row in shown)
        graphs = sorted({(row["n"], row["ef_construction"], row["max_neighbors"]) for row in shown})
        for style, graph in zip(itertools.cycle(("-o", "--s", ":^", "-.D", "-v", "--P", ":X")), graphs, strict=False):
            points = [row for row in shown if (row["n"], row["ef_construction"], row["max_neighbors"]) == graph]
            label = f"{graph[1]}, {graph[2]}" + (f"; n = {graph[0]:,}" if graph[0] > n else "")
            axes.plot(
                [row["ms"] for row in points],
                [row["recall@10"] for row in points],
                style,
                color=COLOURS[kind],
                markersize=4,
                label=label,
            )
        axes.axhline(0.99, color=grey, linewidth=0.8)
        axes.set_title(f"{kind}, n = {n:,}", color=grey)
        axes.set_xlabel("ms per query (median)", color=grey)
        axes.set_ylim(None, 1.005)
        axes.tick_params(colors=grey)
        axes.spines[:].set_color(grey)
        axes.legend(
            title="ef_construction,\nmax_neighbors", frameon=False, labelcolor=grey, fontsize=8, title_fontsize=8
        )
        axes.get_legend().get_title().set_color(grey)
    figure.axes[0].set_ylabel("recall@10", color=grey)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def main() -> None:
    """Run one step, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("build", "ask", "report", "all"))
    parser.add_argument("graph", nargs="*", help="for build: kind of vectors, ef_construction, max_neighbors")
    parser.add_argument("--n", type=int, default=100_000, help="gallery vectors (default: %(default)s)")
    parser.add_argument("--index", type=Path, default=ROOT / "index", help="an index with the bundled icons")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "hnsw-graphs")
    parser.add_argument("--figures", type=Path, default=ROOT / "benchmarks" / "hnsw.jsonl")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop building then; the same command resumes")
    parser.add_argument("--keep", action="store_true", help="keep graphs after querying them")
    arguments = parser.parse_args()
    if arguments.step == "build":
        build_graph(arguments, arguments.graph[0], *(int(value) for value in arguments.graph[1:]))
    if arguments.step == "all":
        for kind, graph in itertools.product(KINDS, SWEEP):
            build_graph(arguments, kind, *graph)
    if arguments.step in ("ask", "all"):
        built = known_figures(arguments.figures)
        for folder in sorted(arguments.work.iterdir()):
            if built.get(folder.name, {}).get("rows") == int(folder.name.split("-")[1]):  # skip unfinished graphs
                ask_graph(arguments, folder)
    if arguments.step in ("report", "all"):
        rows = figures_of(arguments.figures)
        draw(rows, arguments.figures.with_suffix(".svg"))
        report("HNSW", rows, dimensions=DIMENSIONS, queries=QUERIES, k=K)


if __name__ == "__main__":
    main()
