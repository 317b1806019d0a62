"""The training texts of the text tower, and the icons and ImageNet classes that each of them means.

A text means an icon by its name or tags, and a class by its name, synonyms, gloss or hypernyms (WordNet). For a text
without a known meaning, the target comes from the teacher alone.
"""

import ast
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icons import Icon

TOO_GENERAL = 400  # a hypernym of more than this many of the 1,000 classes is not used
LONGEST_GLOSS = 80  # characters
FREQUENT = 3  # the minimum count of a word sense in WordNet's tagged texts
NOUN, VERB = "1", "2"  # the kinds of WordNet's sense keys that matter here
CAPTIONS = ("{}", "an icon of {}", "a drawing of {}", "an emoji of {}", "{} icon")
PHOTO_CAPTIONS = ("{}", "a photo of a {}", "a picture of a {}", "a {}", "the {}", "a close-up of a {}")
LOOSE = ("something about {}", "things like {}", "{}", "a {}", "some {}", "a picture of {}", "something with {}")


@dataclass
class Meanings:
    """Texts with the indices of the icons and of the classes that they mean, and texts without a known meaning."""

    icons: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    classes: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    others: set[str] = field(default_factory=set)

    @property
    def texts(self) -> list[str]:
        """All texts, in a fixed order."""
        return sorted({*self.icons, *self.classes, *self.others})


@dataclass(frozen=True)
class Synset:
    """A noun of WordNet: its words, the offsets of its hypernyms, and the first part of its gloss."""

    words: tuple[str, ...]
    above: tuple[str, ...]
    gloss: str


def meanings(wanted: Sequence[Icon], inputs: Path, draw: random.Random) -> Meanings:
    """Return all texts and their meanings."""
    found = Meanings()
    of_icons(wanted, found, draw)
    nouns = synsets(inputs)
    of_classes(class_names(inputs), class_synsets(inputs), nouns, found)
    of_everyday(inputs, found, draw)
    return found


def captions(wanted: Sequence[Icon], inputs: Path) -> list[str]:
    """Return a caption for each icon and then for each class; the teacher compares texts with them."""
    nouns = synsets(inputs)
    found = [f"{icon.name}, {', '.join(icon.tags[:4])}" for icon in wanted]
    for name, offset in zip(class_names(inputs), class_synsets(inputs), strict=True):
        noun = nouns[offset]
        found.append(f"{name}, {', '.join(noun.words[:2])}, a kind of {nouns[noun.above[0]].words[0]}")
    return found


def of_icons(wanted: Sequence[Icon], found: Meanings, draw: random.Random) -> None:
    """Add texts from the names, tags and groups of icons."""
    tagged: dict[str, set[int]] = defaultdict(set)
    for place, icon in enumerate(wanted):
        name = icon.name.lower()
        for caption in CAPTIONS:
            found.icons[caption.format(name)].add(place)
        if ": " in name:
            found.icons[name.replace(": ", " ")].add(place)
            found.icons[" ".join(reversed(name.split(": ")))].add(place)
        for tag in {*icon.tags, *icon.subgroup.split("-"), icon.subgroup.replace("-", " "), *name.split()}:
            tagged[tag.lower()].add(place)
        for group in icon.group.split("-"):
            tagged[group].add(place)
    for place, icon in enumerate(wanted):
        tags = [tag.lower() for tag in icon.tags]
        for _ in range(2):
            pair = draw.sample(tags, min(2, len(tags)))
            if len(pair) == 2:
                found.icons[f"{pair[0]} {pair[1]}"] |= tagged[pair[0]] & tagged[pair[1]]
        if tags:
            found.icons[f"{draw.choice(tags)} {icon.name.lower()}"].add(place)
    for tag, places in sorted(tagged.items()):
        for form in ("{}", draw.choice(LOOSE)):
            found.icons[form.format(tag)] |= places


def of_classes(names: Sequence[str], offsets: Sequence[str], nouns: dict[str, Synset], found: Meanings) -> None:
    """Add texts from the names, synonyms, glosses and hypernyms of ImageNet's classes."""
    kinds: dict[str, set[int]] = defaultdict(set)
    for place, (name, offset) in enumerate(zip(names, offsets, strict=True)):
        noun = nouns[offset]
        for word in {name.lower(), *(each.lower() for each in noun.words)}:
            for caption in PHOTO_CAPTIONS:
                found.classes[caption.format(word)].add(place)
        if len(noun.gloss) < LONGEST_GLOSS:
            found.classes[noun.gloss.lower()].add(place)
        for above in _above(offset, nouns):
            for word in nouns[above].words[:3]:
                kinds[word.lower()].add(place)
    for word, places in kinds.items():
        if len(places) <= TOO_GENERAL:
            for caption in ("{}", "a photo of a {}", "a {}"):
                # The name of a class means that class, even if it is also a hypernym of others.
                found.classes.setdefault(caption.format(word), set(places))


def of_everyday(inputs: Path, found: Meanings, draw: random.Random) -> None:
    """Add frequent words of WordNet's tagged texts, in phrases that people search with."""
    for line in (inputs / "wordnet" / "usr" / "share" / "wordnet" / "cntlist.rev").read_text("latin1").splitlines():
        key, _number, count = line.split()
        word, kind = key.split("%")
        if int(count) < FREQUENT or not word.replace("_", "").isalpha():
            continue
        plain = word.replace("_", " ")
        if kind[0] == VERB:
            found.others.add(draw.choice(("something to {}", "a thing to {} with", "to {}", "{}")).format(plain))
        elif kind[0] == NOUN:
            found.others.update((plain, draw.choice(LOOSE).format(plain)))
        else:
            found.others.add(draw.choice(("{}", "something {}", "a {} thing")).format(plain))


def class_names(inputs: Path) -> list[str]:
    """Return open_clip's names of ImageNet's 1,000 classes, parsed from its source without importing it."""
    source = ast.parse((inputs / "wheels" / "open_clip" / "zero_shot_metadata.py").read_text())
    for node in source.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "IMAGENET_CLASSNAMES":
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise LookupError("open_clip no longer has IMAGENET_CLASSNAMES; take the version that sources.py names.")


def class_synsets(inputs: Path) -> list[str]:
    """Return the WordNet offsets of ImageNet's 1,000 classes, in their order."""
    listed = (inputs / "wheels" / "timm" / "data" / "_info" / "imagenet_synsets.txt").read_text().split()
    return [each.removeprefix("n") for each in listed]


def synsets(inputs: Path) -> dict[str, Synset]:
    """Return the nouns of WordNet 3.0 by offset; the format is described in wndb(5WN)."""
    found = {}
    lines = (inputs / "wordnet" / "usr" / "share" / "wordnet" / "data.noun").read_text("latin1").splitlines()
    for line in lines:
        if line.startswith("  "):
            continue
        head, _, gloss = line.partition("|")
        parts = head.split()
        count = int(parts[3], 16)
        words = tuple(parts[4 + 2 * number].replace("_", " ") for number in range(count))
        start = 5 + 2 * count
        pointers = [parts[start + 4 * number : start + 2 + 4 * number] for number in range(int(parts[start - 1]))]
        above = tuple(offset for kind, offset in pointers if kind in ("@", "@i"))
        found[parts[0]] = Synset(words, above, gloss.strip().split(";")[0].strip())
    return found


def _above(offset: str, nouns: dict[str, Synset]) -> Iterable[str]:
    reached: dict[str, None] = {}
    waiting = [offset]
    while waiting:
        for above in nouns[waiting.pop(0)].above:
            if above not in reached:
                reached[above] = None
                waiting.append(above)
    return reached
