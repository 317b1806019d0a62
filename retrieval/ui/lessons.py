"""The guided lessons: what each asks, and how it finds the answer by searching the bundled photos."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from retrieval.analysis.explanation import number, verdict
from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.errors import QueryError
from retrieval.gallery.source import DEFAULT_GALLERY
from retrieval.installation import BUILDER
from retrieval.metrics import Metric
from retrieval.pictures.distortion import UNDISTORTED, Distortion
from retrieval.pictures.loading import load_picture
from retrieval.search.query import Query, Ranking
from retrieval.search.searcher import Searcher
from retrieval.ui.examples import Example, examples_of
from retrieval.ui.permalink import to_address
from retrieval.ui.widgets.lanes import Lane, judged, message_lane, result_lane
from retrieval.ui.widgets.thumbnails import Thumbnails

TOP_K = 8
COMPARED = 20  # queries of the lesson on engines
TURNED = Distortion(rotation=15)
COPY = Distortion(blur=0.03, quality=5)
CASTLE = "chateau-de-chenonceau"
WORDS = "a castle by a river"


@dataclass(frozen=True)
class Answer:
    """What a lesson found.

    Attributes:
        right: the index of the right choice.
        text: the explanation, in Markdown.
        lanes: the results that show it.
        address: of the search, as in a link; empty if no link can hold it.
    """

    right: int
    text: str
    lanes: list[Lane]
    address: str = ""


class Classroom:
    """The bundled photos, and the searches that lessons make in them."""

    def __init__(self, searcher: Searcher, thumbnails: Thumbnails) -> None:
        """Open the photos; raise QueryError if they were not built."""
        self.index = searcher.indexes.get(DEFAULT_GALLERY)
        if self.index.manifest.source.bundled != DEFAULT_GALLERY:
            raise QueryError(f"The lessons need the bundled photos. Build them: `{BUILDER}`")
        thumbnails.serve(self.index)
        self._searcher = searcher
        self._thumbnails = thumbnails

    def example(self, key: str = CASTLE) -> Example:
        """Return a query image bundled with the photos."""
        return next(each for each in examples_of(self.index) if each.key == key)

    def search(self, query: Query) -> Ranking:
        """Return the closest images."""
        return self._searcher.search(query, self.index)

    def lane(self, query: Query, ranking: Ranking, label: str = "", title: str = "") -> Lane:
        """Return the lane of a ranking; results without the label are marked as wrong."""
        lane = result_lane(self._thumbnails, self.index, query, ranking, label)
        lane = judged(lane, *verdict(query, ranking, self.index, self._searcher.chance))
        return {**lane, "title": title or lane["title"]}

    def address(self, query: Query, features: Sequence[str], example: str = "") -> str:
        """Return the link of a search."""
        address = to_address(query, features, self.index)
        return f"{address}&example={example}" if example else address


@dataclass(frozen=True)
class Lesson:
    """A question, and how the page finds its answer.

    Attributes:
        name: its name in links.
        picture: returns the image that the question is about, or None.
        about: describes that image.
        question: in Markdown.
        choices: the predictions to choose from.
        answer: finds the answer.
    """

    name: str
    title: str
    picture: Callable[[Classroom], Image.Image | None]
    about: str
    question: str
    choices: tuple[str, ...]
    answer: Callable[[Classroom], Answer]


def _castle(room: Classroom, distortion: Distortion = UNDISTORTED) -> Image.Image:
    return distortion.apply(load_picture(room.example().path))


def _photos(room: Classroom) -> Answer:
    example = room.example()
    query = Query(example.path, top_k=TOP_K)
    lanes, right = [], {}
    for name in ("pixels", "clip"):
        by = replace(query, features=name)
        ranking = room.search(by)
        right[name] = sum(hit.label == example.label for hit in ranking.hits)
        lanes.append(room.lane(by, ranking, example.label))
    text = (
        f"**CLIP features find {right['clip']} of {TOP_K}, raw pixels {right['pixels']}.** Raw pixels compare the "
        "colour at each place: bright sky above, something dark below. Many photos look like that, whatever they show. "
        "CLIP has learned from captions which images show the same kind of thing, so it finds castles in other light "
        "and from other sides."
    )
    better = 1 if right["clip"] > right["pixels"] else 0 if right["pixels"] > right["clip"] else 2
    return Answer(better, text, lanes, room.address(query, ("pixels", "clip"), example.key))


def _copied(room: Classroom) -> int:
    """Return the position of the photo whose copy is searched for."""
    return len(room.index) // 3


def _copy(room: Classroom) -> Image.Image:
    return COPY.apply(room.index.picture(_copied(room)))


def _copies(room: Classroom) -> Answer:
    position, lanes, places = _copied(room), [], {}
    picture = room.index.picture(position)
    for name in ("pixels", "clip"):
        query = Query(picture, distortion=COPY, features=name, top_k=TOP_K)
        ranking = room.search(query)
        places[name] = next((hit for hit in ranking.hits if hit.position == position), None)
        lane = room.lane(query, ranking)
        for hit in lane["hits"]:
            if hit["position"] == position:
                hit |= {"note": "the original", "correct": True}
        lanes.append(lane)
    said = {
        name: f"put it in place {hit.rank}, with a cosine of {number(hit.score)}"
        if hit
        else f"do not have it among the first {TOP_K}"
        for name, hit in places.items()
    }
    text = (
        f"**Raw pixels {said['pixels']}. CLIP features {said['clip']}.** The blur removes details, but hardly changes "
        "which colour is where, and raw pixels at 16 x 16 see nothing else. To CLIP, a blurred image is another kind "
        "of image. To find copies, the simple feature type can be the better one."
    )
    first = [name for name, hit in places.items() if hit and hit.rank == 1]
    choices = {("pixels",): 0, ("clip",): 1, ("pixels", "clip"): 2, (): 3}
    return Answer(choices[tuple(first)], text, lanes)


def _metrics(room: Classroom) -> Answer:
    example, lanes, found = room.example(), [], {}
    for name in ("clip", "pixels"):
        for metric in (Metric.COSINE, Metric.L2):
            query = Query(example.path, features=name, metric=metric, top_k=TOP_K)
            ranking = room.search(query)
            lane = room.lane(query, ranking, example.label)
            lanes.append({**lane, "title": f"{lane['title']}, {'cosine' if metric is Metric.COSINE else 'L2'}"})
            found[name, metric] = [hit.position for hit in ranking.hits]
    same = {name: len({*found[name, Metric.COSINE]} & {*found[name, Metric.L2]}) for name in ("clip", "pixels")}
    unchanged = found["clip", Metric.COSINE] == found["clip", Metric.L2]
    said = "Both metrics give the same list" if unchanged else f"{same['clip']} of {TOP_K} stay"
    text = (
        f"**{said}.** For vectors of length 1, L2² = 2 - 2 · cosine, so the image with the largest cosine is also the "
        "one with the smallest distance. Vectors of raw pixels have different lengths: there, "
        f"{same['pixels']} of {TOP_K} results are the same. Cosine ignores how bright an image is as a whole, L2 does "
        "not."
    )
    choice = 0 if unchanged else 1 if same["clip"] == TOP_K else 2
    return Answer(choice, text, lanes, room.address(Query(example.path, metric=Metric.L2), ("clip",), example.key))


def _rotation(room: Classroom) -> Answer:
    example, lanes, kept = room.example(), [], {}
    for name in ("pixels", "clip"):
        upright = Query(example.path, features=name, top_k=TOP_K)
        turned = replace(upright, distortion=TURNED)
        before, after = room.search(upright), room.search(turned)
        kept[name] = len({hit.position for hit in before.hits} & {hit.position for hit in after.hits})
        lanes.append(room.lane(turned, after, example.label))
    text = (
        f"**CLIP features keep {kept['clip']} of their {TOP_K} results, raw pixels {kept['pixels']}.** After a "
        "rotation hardly any pixel is where it was, and white corners appear. CLIP still sees a castle, but not under "
        "every angle: it has seen few images upside down. Try other angles on the Robustness tab."
    )
    most = [name for name in ("pixels", "clip") if kept[name] > TOP_K / 2]
    choices = {("pixels",): 0, ("clip",): 1, ("pixels", "clip"): 2, (): 3}
    return Answer(choices[tuple(most)], text, lanes)


def _engines(room: Classroom) -> Answer:
    positions = np.linspace(0, len(room.index) - 1, COMPARED).astype(int).tolist()
    found: dict[str, list[set[int]]] = {}
    took: dict[str, float] = {}
    lanes = []
    for name, engine in ENGINES.items():
        room.search(Query(position=0, engine=name))  # opens the engine
        queries, times = [Query(position=each, engine=name, top_k=TOP_K) for each in positions], []
        found[name] = []
        for query in queries:
            started = time.perf_counter()
            ranking = room.search(query)
            times.append(time.perf_counter() - started)
            found[name].append({hit.position for hit in ranking.hits})
        took[name] = statistics.median(times) * 1e3
        lanes.append(room.lane(queries[-1], ranking, title=engine.title))
    exact, other = found[DEFAULT_ENGINE], next(name for name, engine in ENGINES.items() if not engine.exact)
    recall = statistics.mean(len(a & b) / len(a) for a, b in zip(exact, found[other], strict=True))
    text = (
        f"**It finds {recall:.0%} of them, on average over {COMPARED} queries: recall@{TOP_K} is {recall:.2f}.** In "
        f"this gallery, a search took {took[DEFAULT_ENGINE]:.1f} ms by the exact scan and {took[other]:.1f} ms by "
        f"{ENGINES[other].title}. In a gallery ten times as large, the exact scan takes ten times as long, but a graph "
        "search hardly longer. There it pays off, and recall shows what it costs."
    )
    return Answer(0 if recall >= 0.9 else 1 if recall >= 0.25 else 2, text, lanes)


def _words(room: Classroom) -> Answer:
    label = room.example().label
    query = Query(text=WORDS, features="clip", top_k=TOP_K)
    ranking = room.search(query)
    right = sum(hit.label == label for hit in ranking.hits)
    text = (
        f"**CLIP features find {right} of {TOP_K}, and no caption was read.** CLIP was trained on images with their "
        "captions, so that an image and a text about it get vectors in the same direction. The search compares the "
        "vector of your words with those of the images, as it does for an image. Raw pixels have no vector for a word."
    )
    lanes = [message_lane("pixels", room.index.text_needs), room.lane(query, ranking, label)]
    return Answer(1, text, lanes, room.address(query, ("clip",)))


WHICH = ("Raw pixels", "CLIP features")
LESSONS = (
    Lesson(
        "photos",
        "Why raw pixels fail on photos",
        _castle,
        "The castle of Chenonceau",
        "This photo shows a castle. Each feature type returns the eight images closest to it. **Which one finds more "
        "castles?**",
        (*WHICH, "Both find the same number"),
        _photos,
    ),
    Lesson(
        "copies",
        "When raw pixels win",
        _copy,
        "A blurred copy of a photo in the gallery",
        "This is a copy of a photo in the gallery: blurred, and saved as a JPEG of very low quality. **Which feature "
        "type puts the original first?**",
        (*WHICH, "Both", "Neither"),
        _copies,
    ),
    Lesson(
        "metrics",
        "Cosine and L2 on unit vectors",
        _castle,
        "The castle of Chenonceau",
        "All CLIP vectors here have length 1. You search with cosine, then with L2. **What happens to the list of "
        "results?**",
        ("Nothing", "The same images in another order", "Other images appear"),
        _metrics,
    ),
    Lesson(
        "rotation",
        "What a rotation does",
        lambda room: _castle(room, TURNED),
        "The castle of Chenonceau, rotated by 15 degrees",
        "The photo of the castle was rotated by 15 degrees. **Which feature type keeps more than half of the eight "
        "results that it had before?**",
        (*WHICH, "Both", "Neither"),
        _rotation,
    ),
    Lesson(
        "engines",
        "Exact and approximate search",
        lambda room: None,
        "",
        "The exact scan compares the query with every image. ChromaDB follows a graph from neighbour to neighbour and "
        "looks at a few of them only. **How many of the eight closest images does it find in this gallery?**",
        ("Nearly all", "About half", "Hardly any"),
        _engines,
    ),
    Lesson(
        "words",
        "How text finds images",
        lambda room: None,
        "",
        f"You type *{WORDS}*. Captions are not searched. **Which feature type can find castles?**",
        (*WHICH, "Neither: there is nothing to compare words with"),
        _words,
    ),
)
