"""Downloads from a Hub that stalls, disconnects or is slow: timeouts, clear errors, and nothing is downloaded twice."""

import re
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import pytest

from tests.support.hub_client import make_clip, make_pictures
from tests.support.loopback_hub import LoopbackHub

pytestmark = pytest.mark.endurance

# Shorter timeouts, to make the test faster; hub.PATIENCE is still shorter than the slow download.
SHORT_TIMEOUTS = "from retrieval import hub; hub.WAIT, hub.STALL, hub.PATIENCE = 1.5, 1.5, 2\n"
SHARD = "data/train-00001-of-00003.parquet"


@pytest.fixture
def hub(tmp_path):
    for name in ("stalls", "drops", "slow"):
        make_clip(tmp_path / "hub" / "models" / "org" / name)
        make_pictures(tmp_path / "hub" / "datasets" / "org" / name / "data")
    with LoopbackHub(tmp_path / "hub") as hub:
        yield hub


@pytest.mark.parametrize(
    "before", [pytest.param(SHORT_TIMEOUTS, marks=pytest.mark.short), ""], ids=["brisk", "patient"]
)
def test_interrupted_downloads_are_reported_and_resume_with_the_next_run(hub, client, before):
    kinds = {"stalls": "stall", "drops": "drop", "slow": "drip"}
    for name, fault in kinds.items():
        hub.faults |= {f"org/{name}/{file}": repeat(fault) for file in ("model.safetensors", SHARD)}
    models = [{"model": f"org/{name}"} for name in kinds]
    mapped = [{"dataset": f"org/{name}"} for name in ("stalls", "drops")]
    streamed = [{"dataset": f"org/{name}", "streaming": True} for name in kinds]
    with ThreadPoolExecutor() as pool:  # in parallel, because they mostly wait
        runs = list(pool.map(lambda wanted: client.fetch(hub.url, *wanted, before=before), (models, mapped, streamed)))
    for wanted, found in zip([*models, *mapped, *streamed], [each for run in runs for each in run], strict=True):
        print(wanted, found.error, f"{found.seconds:.1f} s")
        if "org/slow" in wanted.values():
            assert found.error is None
            continue
        name, remedy = wanted.get("model") or wanted["dataset"], "Run the same command again"
        assert name in found.error
        assert re.search(remedy + (".*--model mini" if "model" in wanted else ""), found.error)
    assert runs[2][2].pictures == 12

    hub.faults.clear()
    hub.requests.clear()
    again = client.fetch(hub.url, *models, *mapped)
    assert [found.error for found in again] == [None] * 5
    assert [found.pictures for found in again[3:]] == [12, 12]
    got = [request.split()[1] for request in hub.requests if request.startswith("GET") and "/resolve/" in request]
    broken = [name for name in got if name.endswith(("model.safetensors", SHARD))]
    assert len(broken) == len(set(broken)) == 4  # the slow model is complete
    assert not [
        name for name in got if name.endswith(("config.json", "tokenizer.json", "train-00000-of-00003.parquet"))
    ]


def test_unresponsive_store_of_large_files_times_out(hub, client):
    hub.stored_in_xet = {"org/slow/model.safetensors"}
    (found,) = client.fetch(hub.url, {"model": "org/slow"})
    print(f"{found.seconds:.1f} s")
    assert re.search("'org/slow' could not be downloaded.*Run the same command again.*--model mini", found.error)
    assert 2 <= sum("/store" in request for request in hub.requests) <= 4
