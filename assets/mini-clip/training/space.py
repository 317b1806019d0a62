"""The joint space: a linear map of the frozen features, computed in closed form from icons and ImageNet's classifier.

The features of the mean photo are subtracted from those of an image. Directions in which the styles of one icon differ
are shrunk (within-class covariance normalisation: Hatch, Kajarekar and Stolcke, 2006). The direction in which drawings
differ from photos is removed. Of the others, the space keeps the directions in which icons, or the rows of the
classifier, differ most.
"""

import icons
import numpy as np
import torch
from features import LARGE, Drawn
from torch import nn
from torch.nn import functional

DIMENSIONS = 512
FLOOR = 0.2  # added to the variance within icons, relative to its mean; larger values shrink less
PHOTOS = 0.2  # weight of the classifier's rows; the icons have the rest
STEPS, BATCH, RATE, SCALE = 120, 256, 1e-3, 15.0  # of the refinement; with many more steps the stamps get worse
POWER = 0.15  # the scale of a kept direction is its variance to this power


class Space:
    """Features (n, 1280) -> vectors (n, d)."""

    def __init__(self, weight: torch.Tensor, centre: torch.Tensor) -> None:
        """Create a space from the map (d, 1280) and the mean photo's features (1280,)."""
        self.weight, self.centre = weight, centre

    def __call__(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the unit vectors (n, d) of features."""
        return functional.normalize((pooled.float() - self.centre) @ self.weight.T, dim=-1)

    def classes(self, classifier: torch.Tensor) -> torch.Tensor:
        """Return unit vectors (1000, d) whose dot products with a photo's vector best match the classifier's logits."""
        rows = classifier - classifier.mean(0)
        return functional.normalize(rows @ torch.linalg.pinv(self.weight), dim=-1)


def learn(drawn: Drawn, classifier: torch.Tensor, centre: torch.Tensor) -> Space:
    """Compute the space from icons in several styles, the classifier (1000, 1280) and the mean photo (1280,)."""
    about = drawn.pooled.float() - centre
    count = torch.bincount(drawn.icon).float()
    means = torch.zeros(len(count), about.shape[1]).index_add_(0, drawn.icon, about) / count.clamp(min=1)[:, None]
    shared = count[drawn.icon] > 1
    within = _covariance((about - means[drawn.icon])[shared])
    between = _covariance(means[count > 0] - means[count > 0].mean(0))
    shift = functional.normalize(about.mean(0), dim=0)
    variance, directions = torch.linalg.eigh(within)
    shrunk = (directions / (variance.clamp(min=0) / variance.mean() + FLOOR).sqrt()) @ directions.T
    shrunk = shrunk - shrunk @ shift[:, None] * shift
    parts = [shrunk @ part @ shrunk.T for part in (between, _covariance(classifier - classifier.mean(0)))]
    mixed = sum(weight * part / part.trace() for weight, part in zip((1 - PHOTOS, PHOTOS), parts, strict=True))
    spread, kept = (each.flip(-1)[..., :DIMENSIONS] for each in torch.linalg.eigh(mixed))
    return Space((spread / spread[0]).pow(POWER)[:, None] * (kept.T @ shrunk), centre)


def refined(space: Space, drawn: Drawn) -> Space:
    """Refine the space by contrastive learning between the styles of an icon, in batches of 256 icons."""
    draw = np.random.default_rng(0)
    vectors = (drawn.pooled.float() - space.centre) @ space.weight.T
    places = [np.flatnonzero(drawn.icon.numpy() == icon) for icon in drawn.icon.unique().tolist()]
    places = [each for each in places if len(each) > 1]
    turn = nn.Parameter(torch.eye(vectors.shape[1]))
    optimiser = torch.optim.Adam([turn], lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, STEPS)
    own = torch.arange(min(BATCH, len(places)))
    for _ in range(STEPS):
        chosen = draw.choice(len(places), len(own), replace=False)
        pairs = np.array([draw.choice(places[each], 2, replace=False) for each in chosen])
        first, second = (functional.normalize(vectors[side] @ turn.T, dim=-1) for side in pairs.T)
        scores = SCALE * first @ second.T
        loss = functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return Space(turn.detach() @ space.weight, space.centre)


def bank(space: Space, drawn: Drawn, count: int) -> torch.Tensor:
    """Return a unit vector per icon (count, d), halfway between its gallery image and the mean of all its images."""
    vectors = space(drawn.pooled)
    every = torch.zeros(count, len(space.weight)).index_add_(0, drawn.icon, vectors)
    gallery = torch.zeros_like(every)
    shown = drawn.of_style(icons.GALLERY_STYLE) & (drawn.variant == LARGE)
    gallery[drawn.icon[shown]] = vectors[shown]
    return functional.normalize(functional.normalize(every, dim=-1) + gallery, dim=-1)


def _covariance(about: torch.Tensor) -> torch.Tensor:
    return about.T @ about / len(about)
