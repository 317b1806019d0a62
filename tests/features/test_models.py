"""Untrusted model folders."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

import index_builder
from tests.support.hostile_pictures import small


@pytest.mark.parametrize("which", ["auto_map", "config", "pickle"])
def test_untrusted_model_runs_no_code(tmp_path: Path, which: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config: dict[str, Any] = {"model_type": "evil" if which == "config" else "clip"}
    if which == "auto_map":
        config = {"model_type": "evil", "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"} | config))
    command = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"
    trap = type("Trap", (), {"__reduce__": lambda self: (exec, (command,))})()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(trap))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x.png").write_bytes(small())
    arguments = ["--index", str(tmp_path / "index"), "--dataset", str(tmp_path / "pictures"), "--model", str(model)]
    assert index_builder.main(arguments) == 2
    assert not (tmp_path / "ran").exists()
