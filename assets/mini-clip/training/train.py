"""Train the bundled model: download, compute features, learn the joint space and the text tower, assemble, evaluate.

    pip install -r requirements.txt -r assets/mini-clip/training/requirements.txt
    python assets/mini-clip/training/train.py --work FOLDER --out assets/mini-clip

Needs pip, npm, apt-get and dpkg-deb, two cores, 8 GB of memory and 6 GB of disk in FOLDER. Finished steps are not
repeated, so you can resume with the same command. An intermediate file whose inputs have changed is an error; delete
the file to rebuild it.
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
import checkpoints
import evaluate
import features
import icons
import sources
import space
import text_tower
import torch
import vision
import words
from text_tower import Bank, Targets, Teacher
from torch import nn
from training_loop import Schedule

from retrieval.memory import keep_freed

VISION = Schedule(steps=800, batch=64)
TEXT = Schedule(steps=2400, batch=128, decay=0.01, longest=1.0)
SHARES = {"icons": 0.55, "classes": 0.35, "others": 0.10}  # the share of each kind of text in a batch
LEARNED_SHARE = 0.4  # interpolation between the initial (0) and the learned (1) weights of vision tower and projection
FITTED = 1500  # texts of icons, and as many of classes, from which the projection is initialised


@dataclass(frozen=True)
class Texts:
    """All texts with their meanings, and the teacher's vectors of the texts and of the bank's captions."""

    meanings: words.Meanings
    vectors: torch.Tensor
    captions: torch.Tensor


def main() -> None:
    """Train the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for downloads and intermediate files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument(
        "--photos", type=Path, help="photos for the evaluation (see evaluate.py); updates the model card"
    )
    parser.add_argument(
        "--minutes", type=float, default=Schedule.minutes, help="maximum per training stage (default: %(default)s)"
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
    # In a new process, since this one's allocator settings differ from the app's.
    subprocess.run([sys.executable, evaluate.__file__, "--model", str(out), *measured], check=True)


def _start(work: Path, plain: features.Drawn, inputs: Path) -> space.Space:
    """Return the initial space; it is stored, since another processor would compute a different, equally good one."""
    file, made_from = work / "space.pt", checkpoints.fingerprint(*features.files(work / "features"))
    if not (state := checkpoints.load(file, made_from)):
        tower, classifier, _ = backbone.load(sources.vision_weights(inputs))
        made = space.refined(space.learn(plain, classifier, backbone.mean_of_photos(tower)), plain)
        state = {"weight": made.weight, "centre": made.centre}
        checkpoints.save(state, file, made_from)
    return space.Space(state["weight"], state["centre"])


def trained(
    drawn: features.Drawn,
    start: space.Space,
    prototypes: torch.Tensor,
    inputs: Path,
    work: Path,
    minutes: float,
) -> vision.Top:
    """Train the last part of the vision tower on all images, and return it with interpolated weights."""
    first, top = (vision.Top(backbone.load(sources.vision_weights(inputs))[0], start) for _ in range(2))
    schedule, made_from = replace(VISION, minutes=minutes), checkpoints.fingerprint(work / "space.pt")
    vision.learn(top, drawn, prototypes, schedule, work / "vision.pt", made_from)
    return top.between(first, LEARNED_SHARE).eval()


def _texts(file: Path, inputs: Path, wanted: list[icons.Icon], teacher: Teacher) -> Texts:
    meanings, captions = words.meanings(wanted, inputs, random.Random(0)), words.captions(wanted, inputs)
    made_from = checkpoints.fingerprint(meanings.texts, captions)
    if not (loaded := checkpoints.load(file, made_from)):
        loaded = {"vectors": teacher(meanings.texts), "captions": teacher(captions)}
        checkpoints.save(loaded, file, made_from)
    return Texts(meanings, loaded["vectors"], loaded["captions"])


def _text_tower(
    teacher: Teacher, texts: Texts, bank: Bank, work: Path, minutes: float
) -> tuple[text_tower.BertModel, nn.Linear, list[str]]:
    """Train and return tower, projection and word pieces: first to imitate the teacher, then on the texts' meanings."""
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
        checkpoints.fingerprint(work / "texts.pt", pieces),
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
        checkpoints.fingerprint(work / "text-1.pt", work / "vision.pt", LEARNED_SHARE),
    )
    return tower, projection, pieces


if __name__ == "__main__":
    main()
