"""What builders need, loaded once by the server process that they are forked from; see `warm`."""

import chromadb.api.rust  # noqa: F401  # the builder imports these only when it needs them
import pytest  # noqa: F401  # a forked process imports it as its main module
import scipy.io  # noqa: F401
import sklearn.decomposition
import sklearn.manifold  # noqa: F401
import torch

import retrieval.engines.chroma_fill  # noqa: F401
from retrieval.features.encoder import ClipEncoder
from retrieval.features.models import BUNDLED, choose_model
from tests.support import warm  # noqa: F401

torch.set_num_threads(1)  # forked processes cannot use this process's threads
ENCODER = ClipEncoder(choose_model(BUNDLED))
