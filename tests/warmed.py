"""Imported by the server process alone from which builders are forked, see `warm`: the model, loaded once."""

import sklearn.decomposition  # noqa: F401  # what a builder imports when it comes to it
import torch
import warm  # noqa: F401  # likewise

from retrieval.features.choice import BUNDLED, choose_model
from retrieval.features.clip import ClipEncoder

torch.set_num_threads(1)  # whoever is forked could not use this process's threads
ENCODER = ClipEncoder(choose_model(BUNDLED))
