"""Make the bundled model: download, compute features, learn the joint space and the text tower, put together, measure.

    pip install -r requirements.txt -r assets/mini-clip/training/requirements.txt
    python assets/mini-clip/training/train.py --work FOLDER --out assets/mini-clip

Needs pip, npm, apt-get and dpkg-deb, two cores, 8 GB of memory and 6 GB below FOLDER. What is finished there is not
done again, so the same command goes on where it was stopped. A file that was made from another one than is there now is
refused; delete it to have it made anew.
"""

import argparse
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import assemble
import backbone
import evaluate
import features
import icons
import kept
import sources
import space
import text_tower
import torch
import vision
import words
from course import Schedule
from text_tower import Bank, Targets, Teacher
from torch import nn

from retrieval.memory import keep_freed

VISION = Schedule(steps=800, batch=64)
TEXT = Schedule(steps=2400, batch=128, decay=0.01, longest=1.0)
SHARES = {"icons": 0.55, "classes": 0.35, "others": 0.10}  # how often a text of each kind is drawn
WAY = 0.4  # how far the vision tower and the projection go from what they began with to what they learned
FITTED = 1500  # texts of icons, and of classes, that the projection starts from


@dataclass(frozen=True)
class Texts:
    """All texts, what they mean, and the teacher's vectors of them and of the bank's captions."""

    meanings: words.Meanings
    vectors: torch.Tensor
    captions: torch.Tensor


def main() -> None:
    """Make the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for downloads and what is computed")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--photos", type=Path, help="photos to measure with, see evaluate.py; then also into the card")
    parser.add_argument(
        "--minutes", type=float, default=Schedule.minutes, help="for each stage of training, at most (%(default)s)"
    )
    flags = parser.parse_args()
    torch.manual_seed(0)
    keep_freed(all_sizes=True)
    inputs, work, out = flags.work / "inputs", flags.work, flags.out
    measured = ["--noto", str(sources.noto(inputs))]
    evaluate.check_pictures(flags.photos, None)
    if flags.photos:
        evaluate.check(out / "README.md")
        measured += ["--photos", str(flags.photos), "--card", str(out / "README.md")]
    sources.fetch(inputs)
    wanted = icons.icons(inputs)
    features.compute(inputs, work / "features")
    drawn = features.read(work / "features")
    plain = drawn.plain()
    start = _start(work, plain, inputs)
    top = trained(drawn, start, space.bank(start, plain, len(wanted)), inputs, work, flags.minutes)
    plain = replace(plain, pooled=top.features(plain))
    teacher = Teacher(sources.teacher(inputs))
    texts = _texts(work / "texts.pt", inputs, wanted, teacher)
    vision_tower, classifier, _ = backbone.load(sources.vision_weights(inputs))
    bank = Bank(
        icons=space.bank(top.space(), plain, len(wanted)),
        classes=top.space().classes(classifier),
        icon_captions=texts.captions[: len(wanted)],
        class_captions=texts.captions[len(wanted) :],
    )
    text, projection, pieces = _text_tower(teacher, texts, bank, work, flags.minutes)
    top.put_into(vision_tower)
    assemble.save(vision_tower, top.space(), text, projection.weight.detach(), pieces, out)
    # Measured as the app runs it: by a process that does not keep its memory as this one does.
    subprocess.run([sys.executable, evaluate.__file__, "--model", str(out), *measured], check=True)


def _start(work: Path, plain: features.Drawn, inputs: Path) -> space.Space:
    """Return the space to begin with, which is made once: another processor would find another one as good."""
    file, made_from = work / "space.pt", kept.mark(*features.files(work / "features"))
    if not (state := kept.load(file, made_from)):
        tower, classifier, _ = backbone.load(sources.vision_weights(inputs))
        made = space.refined(space.learn(plain, classifier, backbone.mean_of_photos(tower)), plain)
        state = {"weight": made.weight, "centre": made.centre}
        kept.save(state, file, made_from)
    return space.Space(state["weight"], state["centre"])


def trained(
    drawn: features.Drawn,
    start: space.Space,
    prototypes: torch.Tensor,
    inputs: Path,
    work: Path,
    minutes: float,
) -> vision.Top:
    """Return the trained part of the vision tower, from all pictures, taken back part of the way."""
    first, top = (vision.Top(backbone.load(sources.vision_weights(inputs))[0], start) for _ in range(2))
    schedule, made_from = replace(VISION, minutes=minutes), kept.mark(work / "space.pt")
    vision.learn(top, drawn, prototypes, schedule, work / "vision.pt", made_from)
    return top.between(first, WAY).eval()


def _texts(file: Path, inputs: Path, wanted: list[icons.Icon], teacher: Teacher) -> Texts:
    meanings, captions = words.meanings(wanted, inputs, random.Random(0)), words.captions(wanted, inputs)
    made_from = kept.mark(meanings.texts, captions)
    if not (loaded := kept.load(file, made_from)):
        loaded = {"vectors": teacher(meanings.texts), "captions": teacher(captions)}
        kept.save(loaded, file, made_from)
    return Texts(meanings, loaded["vectors"], loaded["captions"])


def _text_tower(
    teacher: Teacher, texts: Texts, bank: Bank, work: Path, minutes: float
) -> tuple[text_tower.BertModel, nn.Linear, list[str]]:
    """Return tower, projection and word pieces: first taught to be like the teacher, then what texts mean."""
    written = texts.meanings.texts
    meant = [[of.get(text, set()) for text in written] for of in (texts.meanings.icons, texts.meanings.classes)]
    icon_texts, class_texts = ([place for place, one in enumerate(of) if one] for of in meant)
    others = [place for place, text in enumerate(written) if text in texts.meanings.others]
    pieces = text_tower.vocabulary(
        teacher, [written[place] for place in icon_texts + class_texts], [written[place] for place in others]
    )
    tower, tokenizer = text_tower.cut_down(teacher, pieces), text_tower.tokenizer_of(pieces)
    groups = [(icon_texts, SHARES["icons"]), (class_texts, SHARES["classes"]), (others, SHARES["others"])]
    every = range(len(written))
    like = nn.Linear(text_tower.WIDTH, text_tower.WIDTH, bias=False)
    text_tower.learn(
        tower,
        like,
        tokenizer,
        written,
        text_tower.Likeness(texts.vectors),
        [(every, 1.0)],
        replace(TEXT, minutes=minutes),
        work / "text-1.pt",
        kept.mark(work / "texts.pt", pieces),
    )
    projection = nn.Linear(text_tower.WIDTH, bank.icons.shape[1], bias=False)
    meaning = text_tower.Meaning(
        bank,
        Targets(meant[0], texts.vectors, bank.icon_captions),
        Targets(meant[1], texts.vectors, bank.class_captions),
    )
    some = random.Random(0).sample(icon_texts, FITTED) + random.Random(1).sample(class_texts, FITTED)
    states = text_tower.pooled(tower, tokenizer, [written[place] for place in some])
    projection.weight.data = meaning.fitted(states, some)
    text_tower.learn(
        tower,
        projection,
        tokenizer,
        written,
        meaning,
        groups,
        replace(TEXT, minutes=minutes),
        work / "text-2.pt",
        kept.mark(work / "text-1.pt", work / "vision.pt", WAY),
    )
    return tower, projection, pieces


if __name__ == "__main__":
    main()
