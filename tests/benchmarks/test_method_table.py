"""The tables of methods in the documents are what the command writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.markers import generated, insert
from benchmarks.method_table import main, statuses

from tokensweep.presets import presets


def test_the_documents_have_the_tables_of_today() -> None:
    main(["--check"])


def test_a_status_counts_the_finished_runs_of_the_zoo(tmp_path: Path) -> None:
    results = tmp_path / "zoo.md"
    results.write_text(
        "| arm | runs | avg@n |\n| --- | --- | --- |\n| rloo | 3/3 | 50.0 |\n| grpo | 2/3 | 1.0 |\n"
    )
    found = statuses(list(presets().values()), results)
    assert found["rloo"] == "tiny, 3 seeds"
    assert found["naive_grpo"] == "tiny, 2 seeds"  # the preset of the arm grpo
    assert found["tis"] == "tested"


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "text.md"
    path.write_text("a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n")
    insert(path, "x", "new")
    assert path.read_text() == "a\n<!-- x:begin -->\n\nnew\n<!-- x:end -->\nb\n"
    assert generated(path, "x") == "new"
    with pytest.raises(ValueError, match="must have <!-- y:begin --> and below it <!-- y:end -->, each once"):
        insert(path, "y", "new")
