"""The real weights reproduce the published results and the vectors of the project's original notebook.

python -m pytest -m hub tests/features/test_published.py      downloads 600 MB, once
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from retrieval.features.models import AUTO_MODEL
from retrieval.storage.catalog import Indexes
from tests.support.paths import OWN_HF_HOME, ROOT

pytestmark = pytest.mark.hub

# Distances of the five closest pictures, to three decimals. The tolerance is for crops by open_clip and transformers
# that differ by a pixel: this changed cosines with random weights by up to 0.0009.
PUBLISHED = [
    ("American_egret/n02009912_2473.JPEG", "l2", [0.405, 0.412, 0.508, 0.520, 0.529]),  # squared
    ("Orange_easy/0_100.jpg", "cosine", [0.029, 0.049, 0.057, 0.058, 0.136]),
]
TOLERANCE = 0.01


def run(*command):
    """Run a program of the project online, with the user's own Hub cache."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HOME", "HF_HUB_OFFLINE")}
    if OWN_HF_HOME:
        environment["HF_HOME"] = OWN_HF_HOME
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def photos(seed, tmp_path_factory):
    """An index of the seed photos with the real weights, in the notebook's precision."""
    folder = tmp_path_factory.mktemp("published")
    model = ["--model", AUTO_MODEL, "--dtype", "float32"]
    built = run("index_builder.py", "--index", str(folder), "--dataset", str(seed / "train"), *model)
    if built.returncode:
        pytest.fail(f"The real weights could not be downloaded: {built.stderr[-600:]}")
    return folder


@pytest.mark.parametrize(("picture", "metric", "published"), PUBLISHED)
def test_closest_pictures_match_the_original_notebook(photos, seed, picture, metric, published):
    settings = ["--features", "clip", "--metric", metric, "--engine", "exact", "--top-k", "5", "--json"]
    found = run("-m", "retrieval", "search", str(seed / "test" / picture), "--index", str(photos), *settings)
    assert found.returncode == 0, found.stderr
    hits = json.loads(found.stdout)["hits"]
    assert [hit["label"] for hit in hits] == [picture.split("/")[0]] * 5
    scores = np.array([hit["score"] for hit in hits])
    # The notebook published squared L2 distances, and 1 - cosine similarity.
    distances = scores**2 if metric == "l2" else 1 - scores
    np.testing.assert_allclose(distances, published, atol=TOLERANCE)


def test_vectors_match_the_original_notebook(photos, seed):
    original = np.load(seed / "openclip" / "embeddings.npy")
    paths = json.loads((seed / "openclip" / "mapping_paths.json").read_text())
    rows = {"/".join(paths[f"id_{row}"].split("/")[-2:]): row for row in range(len(original))}
    index = Indexes(photos).get()
    vectors = index.vectors("clip")
    cosines = [vectors[row] @ original[rows[index.entry(row).id]] for row in range(len(index))]
    assert len(cosines) == len(original)
    assert np.median(cosines) >= 0.9999
    assert min(cosines) >= 0.99  # some crops differ by a pixel
