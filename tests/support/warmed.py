"""Imported by the server process alone from which builders are forked, see `warm`: the model, loaded once."""

import chromadb.api.rust  # noqa: F401  # what a builder imports when it comes to it
import pytest  # noqa: F401  # which a forked process imports as its main module
import scipy.io  # noqa: F401
import sklearn.decomposition  # noqa: F401
import torch

from retrieval.features.encoder import ClipEncoder
from retrieval.features.models import BUNDLED, choose_model
from tests.support import warm  # noqa: F401

torch.set_num_threads(1)  # whoever is forked could not use this process's threads
ENCODER = ClipEncoder(choose_model(BUNDLED))
