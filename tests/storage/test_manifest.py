"""Manifests that were changed by hand or by another program."""

import json
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import IndexingError
from retrieval.storage.manifest import _checksum, read_manifest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pictures": "many"}, "pictures: Input should be a valid integer"),
        ({"gallery": None}, "gallery: Input should be a valid string"),
        ({"source": ["icons"]}, "source: Input should be"),
        ({"features": {}}, "it names no feature type"),
        ({"features": {"clip": {"name": "mini"}}}, "features.clip.revision: Field required"),
        ({"background": {"clip": {"l1": ["near"]}}}, "background.clip.l1.0: Input should be a valid number"),
        ({"skipped_pictures": 3}, "skipped_pictures: Input should be"),
    ],
)
def test_manifest_with_values_of_another_type_is_reported(
    few_icons: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    values = json.loads((few_icons / "icons" / "manifest.json").read_text()) | change
    del values["checksum"]
    (tmp_path / "manifest.json").write_text(json.dumps({**values, "checksum": _checksum(values)}))
    with pytest.raises(IndexingError) as error:
        read_manifest(tmp_path)
    assert said in str(error.value)
    assert "python index_builder.py" in str(error.value)
