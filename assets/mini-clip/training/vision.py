"""Train the last blocks of the vision tower and the projection to recognise an icon in every style.

The loss classifies images among all icons by learned prototypes (Wang et al., "NormFace", 2017), and contrasts the
images of a batch with each other. In some batches, the feature statistics are mixed between images, as if between
styles (Zhou et al., "Domain Generalization with MixStyle", 2021). Finally, the weights are interpolated between those
before and after the training, so that photos, which the training does not see, do not get worse (Wortsman et al.,
"Robust fine-tuning of zero-shot models", 2022).
"""

import copy
from collections import defaultdict
from pathlib import Path

import backbone
import icons
import numpy as np
import torch
from backbone import CUT, PUBLISHED
from features import Drawn
from space import Space
from torch import nn
from torch.nn import functional
from training_loop import Schedule, TrainingLoop
from transformers import EfficientNetModel

SCALE = 24.0  # softmax scale of cosines
SMOOTHING = 0.02
PAIRS = 0.5  # weight of the contrastive loss
MIXED, BETA = 0.5, 0.2  # the share of batches with mixed statistics, and the parameter of the beta distribution
ALIKE = 0.5  # the share of batches drawn from similar icons
FAMILY, NEIGHBOURS = 8, 24  # icons of a group of similar icons, drawn from this many nearest neighbours of an icon
GALLERY_SHARE = 0.4  # the share of pairs that certainly contain the gallery's style; others may contain it too
PROTOTYPES_RATE = 6.0  # relative to the tower's learning rate
PASS = 64  # images per forward pass without gradients


class Top(nn.Module):
    """The trained part: maps (n, 120, 16, 16) to unit vectors (n, d)."""

    def __init__(self, model: EfficientNetModel, start: Space) -> None:
        """Prepare the vision tower of `backbone.load`, which is modified, and the initial space."""
        from retrieval.features.folding import fold_batch_norms, remove_open_gates

        super().__init__()
        fold_batch_norms(model)
        remove_open_gates(model)
        self.blocks, self.last = nn.ModuleList(model.encoder.blocks[CUT:]), model.encoder.top_conv
        self.projection = nn.Linear(PUBLISHED, len(start.weight))
        self.projection.weight.data = start.weight.clone()
        self.projection.bias.data = -start.weight @ start.centre
        self.to(memory_format=torch.channels_last)

    def pooled(self, maps: torch.Tensor) -> torch.Tensor:
        """Return pooled features (n, 1280)."""
        states = maps.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            states = block(states)
        return functional.relu6(self.last(states)).mean((2, 3))[:, :PUBLISHED].float()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return unit vectors (n, d)."""
        return functional.normalize(self.projection(self.pooled(maps)), dim=-1)

    def space(self) -> Space:
        """Return the projection as a space of the pooled features."""
        weight, bias = self.projection.weight.detach(), self.projection.bias.detach()
        return Space(weight, -torch.linalg.pinv(weight) @ bias)

    def between(self, start: "Top", share: float) -> "Top":
        """Interpolate the weights between `start` (share 0) and this module (share 1)."""
        mixed = copy.deepcopy(self)
        for part, first in zip(mixed.parameters(), start.parameters(), strict=True):
            part.data.lerp_(first.data, 1 - share)
        return mixed

    def features(self, drawn: Drawn) -> torch.Tensor:
        """Return pooled features (n, 1280), bfloat16."""
        places = range(len(drawn.icon))
        with torch.no_grad(), backbone.mixed():
            return torch.cat([self.pooled(drawn.given(places[at : at + PASS])).bfloat16() for at in places[::PASS]])

    def put_into(self, model: EfficientNetModel) -> None:
        """Copy the trained weights into a vision tower of `backbone.load`."""
        for block, learned in zip(model.encoder.blocks[CUT:], self.blocks, strict=True):
            backbone.unfold(learned.expansion.expand_conv, block.expansion.expand_conv, block.expansion.expand_bn)
            depthwise, point = block.depthwise_conv, block.projection
            backbone.unfold(learned.depthwise_conv.depthwise_conv, depthwise.depthwise_conv, depthwise.depthwise_norm)
            backbone.unfold(learned.projection.project_conv, point.project_conv, point.project_bn)
        backbone.unfold(self.last, model.encoder.top_conv, model.encoder.top_bn)


class Batches:
    """Random batches of pairs; a pair is one icon in two styles."""

    def __init__(self, drawn: Drawn, prototypes: torch.Tensor, seed: int) -> None:
        """Prepare the images to draw from; `prototypes` (m, d) are vectors that tell which icons are similar."""
        self._draw = np.random.default_rng(seed)
        self._of: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for place, (icon, style) in enumerate(zip(drawn.icon.tolist(), drawn.style.tolist(), strict=True)):
            self._of[icon][style].append(place)
        self._icons = np.array([icon for icon, styles in self._of.items() if len(styles) > 1])
        self._near = (prototypes @ prototypes.T).topk(NEIGHBOURS, 1).indices.numpy()
        self._gallery = icons.STYLES.index(icons.GALLERY_STYLE)

    def __call__(self, count: int) -> tuple[list[int], torch.Tensor]:
        """Return indices of images, first one of each pair and then the other one, and their icons (2 * count,)."""
        if self._draw.random() < ALIKE:
            chosen = self._alike(count)
        else:
            chosen = self._draw.choice(self._icons, count, replace=False).tolist()
        pairs = []
        for icon in chosen:
            styles = list(self._of[icon])
            if self._gallery in styles and self._draw.random() < GALLERY_SHARE:
                two = [self._gallery, self._draw.choice([style for style in styles if style != self._gallery])]
            else:
                two = self._draw.choice(styles, 2, replace=False).tolist()
            pairs.append([int(self._draw.choice(self._of[icon][int(style)])) for style in two])
        first, second = zip(*pairs, strict=True)
        return [*first, *second], torch.tensor([*chosen, *chosen])

    def mixed(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the maps; in a random share of batches, mix the mean and deviation of channels between images."""
        if self._draw.random() >= MIXED:
            return maps
        mean, deviation = maps.mean((2, 3), keepdim=True), (maps.var((2, 3), keepdim=True) + 1e-5).sqrt()
        other = torch.from_numpy(self._draw.permutation(len(maps)))
        share = torch.from_numpy(self._draw.beta(BETA, BETA, (len(maps), 1, 1, 1))).float()
        plain = (maps - mean) / deviation
        return plain * torch.lerp(deviation[other], deviation, share) + torch.lerp(mean[other], mean, share)

    def _alike(self, count: int) -> list[int]:
        chosen: dict[int, None] = {}
        while len(chosen) < count:
            one = int(self._draw.choice(self._icons))
            family = [one, *self._draw.choice(self._near[one], FAMILY - 1, replace=False).tolist()]
            chosen |= {icon: None for icon in family if len(self._of.get(icon, ())) > 1}
        return list(chosen)[:count]


def learn(
    top: Top, drawn: Drawn, prototypes: torch.Tensor, schedule: Schedule, checkpoint: Path, made_from: str
) -> None:
    """Train in place; resume from the checkpoint if there is one.

    Args:
        top: the trained part.
        drawn: the images.
        prototypes: initial unit vectors (m, d) of all icons; the learned ones are discarded.
        schedule: duration and learning rate; `batch` is the number of icons, with two images each.
        checkpoint: the file in which the state is stored regularly.
        made_from: fingerprint of the inputs.
    """
    top.requires_grad_(True)
    learned = nn.ParameterList([nn.Parameter(prototypes.clone())])
    loop = TrainingLoop("vision", [(top, 1.0), (learned, PROTOTYPES_RATE)], schedule, checkpoint, made_from)
    batches = Batches(drawn, prototypes, schedule.seed + loop.step)
    own = torch.arange(schedule.batch)
    for _ in loop:
        places, wanted = batches(schedule.batch)
        with backbone.mixed():
            vectors = top(batches.mixed(drawn.given(places))).float()
        among = SCALE * vectors @ functional.normalize(learned[0], dim=-1).T
        pairs = SCALE * vectors[: schedule.batch] @ vectors[schedule.batch :].T
        loss = functional.cross_entropy(among, wanted, label_smoothing=SMOOTHING)
        loss = loss + PAIRS * (functional.cross_entropy(pairs, own) + functional.cross_entropy(pairs.T, own))
        loop.learn(loss)
