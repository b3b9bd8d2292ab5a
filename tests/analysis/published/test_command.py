"""``tokensweep audit`` prints, writes files, and says with its exit code what it was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tokensweep.audit import audit_command
from tokensweep_analysis.published.audit import audit_cells
from tokensweep_analysis.published.finding import Rule
from tokensweep_analysis.published.reader import read_published

Write = Callable[..., Path]
_EXAMPLE = Path(__file__).parents[3] / "analysis" / "examples" / "published_example.csv"


@pytest.fixture
def slip(write: Write) -> Path:
    """A table with one slip: 35.0 % of 30 questions."""
    return write({"value": "40.0"}, {"value": "35.0", "variant": "new", "baseline_value": "40.0"})


def test_summary_slips_and_support_are_printed_within_80_columns(
    slip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    audit_command([str(slip)])
    text = capsys.readouterr().out
    for part in ("2 rows, 1 paper, 1 printed difference: 1 slip", "grid, line 3", "inconclusive"):
        assert part in text
    assert "One training run" in text
    assert max(map(len, text.splitlines())) <= 80


def test_only_strict_makes_slips_an_error(slip: Path, write: Write) -> None:
    audit_command([str(slip)])
    with pytest.raises(SystemExit) as stopped:
        audit_command([str(slip), "--strict"])
    assert stopped.value.code == 1
    audit_command([str(write({"value": "40.0"})), "--strict"])


def test_files_hold_every_finding(slip: Path, tmp_path: Path) -> None:
    table, text = tmp_path / "audit.csv", tmp_path / "audit.md"
    audit_command([str(slip), "--csv", str(table), "--markdown", str(text)])
    frame = pd.read_csv(table)
    assert list(frame["kind"]) == ["slip", "difference"]
    assert frame["difference"].iloc[1] == pytest.approx(-5.0)
    assert "35.0 cannot come from 30 questions" in text.read_text(encoding="utf-8")


def test_own_results_are_laid_beside(write: Write, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write({"value": "40.0", "variant": "top", "metric": "avg@4 (%)"})
    audit_command([str(path), "--beside", "demo", f"store={store}"])
    text = " ".join(capsys.readouterr().out.split())
    assert "0 of 1 pairs are comparable" in text
    assert "benchmark ops instead of AIME24" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--paper", "other"], "--paper must fit a paper"), (["--beside", "none"], "no sweep 'none'")],
)
def test_a_wrong_option_says_what_there_is(
    slip: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        audit_command([str(slip), *options, f"store={tmp_path}"])


def test_the_example_has_a_slip_of_each_kind_that_its_papers_have() -> None:
    audit = audit_cells(read_published(_EXAMPLE))
    assert {each.rule for each in audit.slips} == {Rule.average, Rule.contradiction, Rule.grid}
    assert any("all fit 27 questions" in each.text for each in audit.slips)
