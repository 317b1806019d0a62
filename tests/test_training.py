"""The training of the bundled model, as far as it can be tested without downloads."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tests.support.paths import ROOT

pytestmark = [pytest.mark.endurance, pytest.mark.short]

TRAINING = ROOT / "assets" / "mini-clip" / "training"


@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(TRAINING)
    loaded = set(sys.modules)
    yield
    for name in set(sys.modules) - loaded:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == TRAINING:
            del sys.modules[name]


@pytest.fixture
def towers(training):
    """Two vision towers of the model's architecture with the same random weights."""
    import backbone
    from transformers import EfficientNetModel

    torch.manual_seed(0)
    one, other = (EfficientNetModel(backbone.settings()).eval() for _ in range(2))
    for module in one.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for part in (module.weight, module.running_var):
                torch.nn.init.uniform_(part, 0.5, 1.5)
            for part in (module.bias, module.running_mean):
                torch.nn.init.normal_(part, std=0.1)
    for block in one.encoder.blocks:
        torch.nn.init.zeros_(block.squeeze_excite.expand.weight)
        torch.nn.init.constant_(block.squeeze_excite.expand.bias, backbone.ALWAYS_ONE)
    other.load_state_dict(one.state_dict())
    return one, other


@pytest.fixture
def star():
    drawing = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(drawing).regular_polygon((64, 64, 56), 5, fill="orange", outline="brown")
    return drawing


def upper(model, maps):
    """Compute pooled features of maps with the last blocks of the whole tower."""
    import backbone

    states = maps
    for block in model.encoder.blocks[backbone.CUT :]:
        states = block(states)
    top = model.encoder.top_activation(model.encoder.top_bn(model.encoder.top_conv(states)))
    return top.mean((2, 3))[:, : backbone.PUBLISHED]


@torch.inference_mode()
def test_trained_layers_give_the_same_output_inside_the_model(towers):
    import vision
    from space import Space

    whole, other = towers
    maps = torch.randn(3, 120, 16, 16)
    before = upper(whole, maps)
    start = Space(torch.randn(8, 1280), torch.rand(1280))
    top = vision.Top(other, start)
    torch.testing.assert_close(top.pooled(maps), before, rtol=1e-3, atol=1e-4)
    for part in top.parameters():
        part.add_(0.02 * torch.randn_like(part))
    top.put_into(whole)
    after = upper(whole, maps)
    torch.testing.assert_close(top.pooled(maps), after, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(before, after, rtol=0.05)
    torch.testing.assert_close(top(maps), top.space()(after), rtol=1e-3, atol=1e-4)
    norm = whole.half().float().encoder.top_bn  # stored as float16; rounding errors of 19 such layers could add up
    torch.testing.assert_close(norm.weight / (norm.running_var + norm.eps).sqrt(), torch.ones(1408), rtol=1e-4, atol=0)


@torch.inference_mode()
def test_weights_are_interpolated(towers):
    import vision
    from space import Space

    start = Space(torch.randn(8, 1280), torch.rand(1280))
    first, last = (vision.Top(tower, start) for tower in towers)
    for part in last.parameters():
        part.add_(1.0)
    for share in (0.0, 0.25, 1.0):
        between = last.between(first, share)
        for part, begun in zip(between.parameters(), first.parameters(), strict=True):
            torch.testing.assert_close(part, begun + share)


def test_variants_depend_only_on_the_seed(training, star, monkeypatch):
    import variants

    pictures = [np.asarray(variants.varied(star, random.Random(seed))) for seed in (1, 1, *range(2, 40))]
    assert (pictures[0] == pictures[1]).all()
    assert len({picture.tobytes() for picture in pictures}) == len(pictures) - 1
    assert {picture.shape for picture in pictures} == {(variants.SIZE, variants.SIZE, 3)}
    monkeypatch.setattr(variants, "GROUND_WHITE", 1)
    shown = [np.asarray(variants.varied(star, random.Random(seed))) for seed in range(20)]
    assert all((picture < 200).any() for picture in shown)  # the star is still there


def test_pairs_show_one_icon_in_two_styles(training):
    import vision
    from features import Drawn

    generator = torch.Generator().manual_seed(0)
    kinds = [(icon, style, variant) for icon in range(40) for style in range(1 + icon % 4) for variant in range(3)]
    icon, style, variant = torch.tensor(kinds).T
    drawn = Drawn(torch.zeros(len(icon), 1280), icon, style, variant, torch.arange(len(icon)), [])
    prototypes = torch.nn.functional.normalize(torch.randn(40, 16, generator=generator), dim=1)
    batches = vision.Batches(drawn, prototypes, seed=0)
    for _ in range(20):
        places, wanted = batches(8)
        assert drawn.icon[places].tolist() == wanted.tolist()
        assert len(set(wanted.tolist())) == 8
        first, second = drawn.style[places[:8]], drawn.style[places[8:]]
        assert (first != second).all()


def test_training_resumes_from_its_checkpoint(towers, tmp_path, monkeypatch):
    import training_loop
    import vision
    from features import Drawn
    from space import Space

    generator = torch.Generator().manual_seed(0)
    icon = torch.arange(8).repeat(2)
    maps = [torch.randn(8, 16, 16, 120, generator=generator) for _ in range(2)]
    style, rows = torch.arange(2).repeat_interleave(8), torch.arange(8).repeat(2)
    drawn = Drawn(torch.zeros(16, 1280), icon, style, torch.zeros(16), rows, maps)
    start = Space(torch.randn(8, 1280, generator=generator), torch.zeros(1280))
    prototypes = torch.nn.functional.normalize(torch.randn(8, 8, generator=generator), dim=1)
    monkeypatch.setattr(vision, "NEIGHBOURS", 8)
    monkeypatch.setattr(vision, "FAMILY", 4)
    top, again = (vision.Top(tower, start) for tower in towers)
    before = top.projection.weight.clone()
    checkpoint = tmp_path / "vision.pt"
    losses = []

    def learn(self, loss):
        losses.append(loss.item())
        if len(losses) == 3:
            raise KeyboardInterrupt
        whole(self, loss)

    whole = training_loop.TrainingLoop.learn
    monkeypatch.setattr(training_loop.TrainingLoop, "learn", learn)
    monkeypatch.setattr(training_loop, "SAVE_EVERY", 0)
    schedule = training_loop.Schedule(steps=4, batch=4)
    with pytest.raises(KeyboardInterrupt):
        vision.learn(top, drawn, prototypes, schedule, checkpoint, "these pictures")
    assert not torch.equal(top.projection.weight, before)
    vision.learn(again, drawn, prototypes, schedule, checkpoint, "these pictures")
    assert len(losses) == 3 + 2
    state = torch.load(checkpoint, weights_only=True)
    assert state["step"] == 4
    assert {int(each["step"]) for each in state["parts"][-1]["state"].values()} == {4}  # the optimiser resumed, too
    vision.learn(top, drawn, prototypes, schedule, checkpoint, "these pictures")  # nothing left to do
    assert len(losses) == 5
    for part, kept in zip(again.parameters(), top.parameters(), strict=True):
        assert torch.equal(part, kept)
    with pytest.raises(RuntimeError, match="Delete it"):
        vision.learn(top, drawn, prototypes, schedule, checkpoint, "other pictures")


def test_text_tower_learns_the_embeddings_of_its_teacher(training, tmp_path):
    import text_tower
    from training_loop import Schedule
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    names = ["cat", "dog", "fish", "bird", "tree", "house", "boat", "car"]
    tokenizer = text_tower.tokenizer_of([*text_tower.SPECIAL, *names])
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    tower = BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=48, **sizes))
    projection = torch.nn.Linear(48, 24, bias=False)
    wanted = torch.nn.functional.normalize(torch.randn(len(names), 24), dim=-1)

    def similarity():
        with torch.inference_mode():
            return (text_tower.embed(tower.eval(), projection, tokenizer, names) * wanted).sum(1).mean()

    before = similarity()
    groups = [(range(len(names)), 1.0)]
    schedule = Schedule(steps=300, batch=8, rate=1e-2, warm=5)
    objective = text_tower.Likeness(wanted)
    text_tower.learn(tower, projection, tokenizer, names, objective, groups, schedule, tmp_path / "text.pt", "")
    assert before < 0.3 < 0.7 < similarity()


def test_figures_are_written_between_their_marks(training, tmp_path):
    import evaluate

    card = tmp_path / "README.md"
    with pytest.raises(ValueError, match="has no lines <!-- figures -->"):
        evaluate.check(card)
    card.write_text("".join(f"before\n<!-- {mark} -->\nold\n<!-- end of {mark} -->\n" for mark in evaluate.MARKS))
    evaluate.check(card)
    answers = [evaluate.Answer("a fish", 0.5, "shark, *boat*")]
    evaluate.write(card, [{"figure": "size, MB", "of": 1, "value": 30.0}], answers, [])
    text = card.read_text()
    assert "| size, MB | 1 | 30.0 |" in text
    assert "| a fish | 0.5 | shark, *boat* |" in text
    assert (text.count("before"), text.count("old")) == (3, 1)  # no photos, so the hardest classes stay
    evaluate.write(card, [], answers, [evaluate.Hard("barn_spider", 0.25, [("black_widow", 3)], 50)])
    assert "| barn spider | 0.25 | 50 | black widow (3) |" in card.read_text()
    with pytest.raises(ValueError, match="No file matches"):
        evaluate.check_pictures(tmp_path, None)


def test_error_names_a_missing_style(training, tmp_path):
    import features

    with pytest.raises(FileNotFoundError, match=r"fluent-3d\.pt is missing"):
        features.read(tmp_path)
