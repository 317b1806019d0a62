"""The joint space: one linear map of the frozen features, learned from icons without losing what tells photos apart.

The map starts as a rotation: the directions along which ImageNet's classifier rows differ, gently scaled, of features
about the mean photo. The direction in which drawings as a whole differ from photos is left out. Training then pulls
the styles of one icon together and apart from other icons, while made-up photos, a class's direction with the
variation of the icons, must keep the neighbours that they have in the rotated space.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from features import Features
from icons import GALLERY_STYLE
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Recipe:
    """What can be chosen; the defaults were chosen by a held-out style and by stamps, see the model card."""

    dimensions: int = 512
    power: float = 0.25  # of the singular values of the classifier, in the rotated space
    steps: int = 600
    batch: int = 384
    rate: float = 2e-4
    keep: float = 1.0  # weight of the neighbours of made-up photos
    seed: int = 0


class Space:
    """Features (n, 1280) -> vectors (n, d)."""

    def __init__(self, weight: torch.Tensor, centre: torch.Tensor) -> None:
        """Take the map (d, 1280) and the mean photo (1280,)."""
        self.weight, self.centre = weight, centre

    def __call__(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return unit vectors."""
        return functional.normalize((pooled.float() - self.centre) @ self.weight.T, dim=-1)

    def classes(self, classifier: torch.Tensor) -> torch.Tensor:
        """Return unit vectors (1000, d) whose dot product with a photo's vector is nearest to the classifier's answer."""
        rows = classifier - classifier.mean(0)
        return functional.normalize(rows @ torch.linalg.pinv(self.weight), dim=-1)


def rotated(classifier: torch.Tensor, centre: torch.Tensor, drawn: torch.Tensor, recipe: Recipe) -> Space:
    """Return the space that training starts from; `drawn` are features of icons."""
    shift = functional.normalize(drawn.float().mean(0) - centre, dim=0)
    rows = classifier - classifier.mean(0)
    rows = rows - (rows @ shift)[:, None] * shift
    _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
    scale = (singular[: recipe.dimensions] / singular[0]) ** recipe.power
    return Space(scale[:, None] * directions[: recipe.dimensions], centre)


def learn(classifier: torch.Tensor, centre: torch.Tensor, features: Features, styles: Sequence[str], recipe: Recipe) -> Space:
    """Return the learned space; only pictures of the given styles are used."""
    torch.manual_seed(recipe.seed)
    usable = torch.tensor([style in styles for style in features.style])
    drawn, icon = features.pooled[usable].float() - centre, features.icon[usable]
    style = torch.tensor([list(styles).index(each) for each in features.style[usable.numpy()]])
    start = rotated(classifier, centre, drawn + centre, recipe)
    by_icon = [torch.nonzero(icon == place).flatten() for place in range(int(icon.max()) + 1)]
    by_icon = [places for places in by_icon if len(style[places].unique()) > 1]
    made_up = _Photos(classifier, drawn)
    weight = nn.Parameter(start.weight.clone())
    scale = nn.Parameter(torch.tensor(math.log(20.0)))
    optimiser = torch.optim.Adam([{"params": [weight]}, {"params": [scale], "lr": 1e-3}], lr=recipe.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    for step in range(recipe.steps):
        pairs = [_pair(by_icon[int(each)], style) for each in torch.randperm(len(by_icon))[: recipe.batch]]
        first, second = (functional.normalize(drawn[torch.stack(side)] @ weight.T, dim=-1) for side in zip(*pairs, strict=True))
        scores = scale.exp() * first @ second.T
        own = torch.arange(len(scores))
        loss = (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2
        if recipe.keep:
            photos = made_up(recipe.batch)
            loss = loss + recipe.keep * _moved(photos @ start.weight.T, photos @ weight.T)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == recipe.steps - 1:
            print(f"space: step {step}, loss {loss.item():.3f}, scale {scale.exp().item():.1f}", flush=True)
    return Space(weight.detach(), centre)


class _Photos:
    """Features that photos of ImageNet's classes might have, about the mean photo."""

    def __init__(self, classifier: torch.Tensor, drawn: torch.Tensor) -> None:
        self._within = drawn - drawn.mean(0)
        # Of a linear classifier of normal classes the rows are the class means times the inverse covariance.
        covariance = self._within.T @ self._within / len(drawn)
        means = (classifier - classifier.mean(0)) @ covariance
        self._means = means / means.norm(dim=1, keepdim=True) * self._within.norm(dim=1).mean()

    def __call__(self, count: int) -> torch.Tensor:
        strength = torch.rand(count, 1) * 0.7 + 0.3
        kind = torch.randint(len(self._means), (count // 2,)).repeat(2)
        noise = self._within[torch.randint(len(self._within), (len(kind),))]
        return strength[: len(kind)] * self._means[kind] + (1 - strength[: len(kind)] * 0.5) * noise


def _pair(places: torch.Tensor, style: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two pictures of an icon in different styles."""
    mixed = places[torch.randperm(len(places))]
    return mixed[0], mixed[style[mixed] != style[mixed[0]]][0]


def _moved(before: torch.Tensor, after: torch.Tensor, scale: float = 12.0) -> torch.Tensor:
    """Return how far the neighbours of each picture have moved: KL divergence of the softmax of cosines."""
    others = ~torch.eye(len(before), dtype=torch.bool)
    wanted, given = (
        (scale * unit @ unit.T)[others].reshape(len(unit), -1)
        for unit in (functional.normalize(before, dim=-1), functional.normalize(after, dim=-1))
    )
    return 10 * functional.kl_div(given.log_softmax(1), wanted.softmax(1), reduction="batchmean")


def bank(space: Space, features: Features, count: int) -> torch.Tensor:
    """Return one unit vector (count, d) for each icon: between that of the gallery's picture and the mean of all styles."""
    vectors = space(features.pooled)
    clean = features.composition == 0
    total = torch.zeros(count, vectors.shape[1]).index_add_(0, features.icon[clean], vectors[clean])
    shown = torch.zeros_like(total)
    gallery = torch.from_numpy(features.style == GALLERY_STYLE) & clean
    shown[features.icon[gallery]] = vectors[gallery]
    return functional.normalize(functional.normalize(total, dim=-1) + shown, dim=-1)
