"""Texts of a dataset cannot control a terminal or run in a spreadsheet."""

import csv
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval import index_builder
from retrieval.cli import main
from retrieval.labels import printable, without_formula
from tests.support.hostile_pictures import small

HOSTILE = "\x1b[2J\x07\r\nnext\u202eline\udcff"


def test_control_characters_are_escaped_and_scripts_kept():
    assert printable(HOSTILE) == "\\x1b[2J\\x07\\r\\nnext\\u202eline\\udcff"
    assert printable("Käse, 猫, قطة, 👩\u200d💻") == "Käse, 猫, قطة, 👩\u200d💻"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_formulas_are_turned_into_text(text):
    assert without_formula(text) == f"'{text}"
    assert without_formula(f"a{text}") == f"a{text}"
    assert without_formula(f"a; {text}") == f"a;' {text}"


def test_builder_and_commands_never_print_them_raw(tmp_path, queries, capsys):
    names = [f"=cmd{HOSTILE[:-1]}", "skipped\x1b[31m", *"abc"]
    rows = {"image": [{"bytes": small(), "path": None}] * 5, "id": names, "label": names, "caption": names}
    rows["image"][1] = {"bytes": b"no image", "path": None}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    index = ["--index", str(tmp_path / "index")]
    dataset = ["--dataset", str(tmp_path / "rows.parquet"), "--model", "mini"]
    assert index_builder.main([*index, *dataset]) == 0
    for command in (["search", str(queries / "fox.png")], ["compare", str(queries / "fox.png")], ["info"]):
        assert main([command[0], *index, *command[1:]]) == 0
    printed = capsys.readouterr()
    assert "\\x1b[31m" in printed.out  # the skipped image
    assert "\x1b" not in printed.out + printed.err.replace("\x1b[A", "")  # which the progress bar uses
    assert "\u202e" not in printed.out
    assert main(["map", *index]) == 0
    ids = [row["id"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out, newline=""))]
    assert len(ids) == 4 and ids[0].startswith("'=cmd")


def test_errors_are_printed_without_control_characters(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(small())
    (tmp_path / "set" / "metadata.csv").write_text("file_name,\x1b]0;x\x07evil\na.png,x\n")
    flags = ["--index", str(tmp_path / "index"), "--dataset", str(tmp_path / "set"), "--model", "mini"]
    assert index_builder.main([*flags, "--caption-column", "nope"]) == 2
    printed = capsys.readouterr().err
    assert "has no column 'nope'" in printed
    assert "\\x1b]0;x\\x07evil" in printed
    assert "\x1b]" not in printed
