"""``tokensweep audit`` prints, writes files, and says with its exit code what it was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tokensweep.audit import audit_command
from tokensweep.cli import main
from tokensweep_analysis.published.audit import audit_cells
from tokensweep_analysis.published.finding import Rule, one_decimal
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
    written = text.read_text(encoding="utf-8")
    assert "35.0 cannot come from 30 questions" in written
    assert "| 1 | inconclusive |" in written


def test_what_stands_against_a_verdict_is_said_once_below_its_table(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"value": "40.0", "baseline_value": "36.7", "metric": "accuracy (%)"}
    audit_command([str(write({**row, "variant": "new"}, {**row, "variant": "newer"})), "--all"])
    text = capsys.readouterr().out
    assert text.count("inconclusive (1)") == 2
    assert text.count("(1) number of samples not printed: interval as if unlimited") == 1


def test_own_results_are_laid_beside(write: Write, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write({"value": "40.0", "variant": "top", "metric": "avg@4 (%)"})
    audit_command([str(path), "--beside", "demo", f"store={store}"])
    text = " ".join(capsys.readouterr().out.split())
    assert "0 of 1 pairs are comparable" in text
    assert "benchmark ops instead of AIME24" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--paper", "other"], "--paper must fit a paper .* papers are Paper"),
        (["--paper", ""], "--paper must be a part of a paper's name"),
        (["--beside", "none"], "no sweep 'none'"),
        (["--beside", ""], "--beside must name a sweep, got ''"),
        (["--map", "top=new"], "--map must go with --beside SWEEP, got --map 'top=new' alone"),
        (["--beside", "demo", "--map", "new"], "--map must be ARM=VARIANT, got 'new'"),
        (["--beside", "demo", "--map", "a=b", "--map", "a=c"], "--map must name an arm once, got 'a' for"),
        (["--pool", "AIME24,AMC23"], "--pool must name benchmarks .*got 'AMC23': benchmarks are AIME24$"),
        (["--pool", "AIME24,AIME 2024"], "--pool must name a benchmark once, got 'AIME24' twice"),
        (["--pool", ","], "--pool must name two or more benchmarks"),
    ],
)
def test_a_wrong_option_says_what_there_is(
    slip: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        audit_command([str(slip), *options, f"store={tmp_path}"])


def test_a_pool_that_no_arm_has_is_an_error(write: Write) -> None:
    rows = [{"benchmark": name, "value": "40.0", "variant": name} for name in ("AIME24", "AIME25")]
    path = write(*({**row, "baseline_value": "30.0"} for row in rows))
    with pytest.raises(ValueError, match="no arm has all of them in one metric"):
        audit_command([str(path), "--pool", "AIME24,AIME25"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--csv", "."], "--csv must be a file, got the folder"),
        (["--markdown", "none/audit.md"], "--markdown must lie in a folder, got no folder none: make it"),
        (["--csv", "table.csv"], "--csv must be a file of its own, got table.csv for FILE.csv too"),
        (["--csv", "a", "--markdown", "a"], "--markdown must be a file of its own, got a for --csv too"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_printed(
    slip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(slip.parent)
    before = slip.read_bytes()
    with pytest.raises(ValueError, match=message):
        audit_command([slip.name, *options])
    assert capsys.readouterr().out == ""
    assert slip.read_bytes() == before


def test_an_error_of_the_system_names_the_file_and_no_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tokensweep", "audit", "x" * 300])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"tokensweep: error: {'x' * 300}: File name too long\n"


def test_names_in_square_brackets_and_colons_are_printed_as_they_are(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    audit_command([str(write({"value": "40.0", "baseline_value": "33.3", "variant": "[ours] :100: [/x]"}))])
    assert "GRPO, [ours] :100: [/x]" in capsys.readouterr().out


def test_a_bound_beside_zero_shows_its_side() -> None:
    assert [one_decimal(value) for value in (0.04, -0.04, 0.0, -1.25, 0.06)] == [
        "0.04",
        "-0.04",
        "0.0",
        "-1.2",
        "0.1",
    ]


def test_the_example_has_a_slip_of_each_kind_that_its_papers_have() -> None:
    audit = audit_cells(read_published(_EXAMPLE))
    assert {each.rule for each in audit.slips} == {Rule.average, Rule.contradiction, Rule.grid}
    assert any("all fit 27 questions" in each.text for each in audit.slips)
