"""The command that measures the verifier: which files it takes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

_BENCHMARK: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "verifier.py"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"gold": "1", "prediction": "1", "equal": true}',
            "line 2 must be an object with gold, answer, equal",
        ),
        ('{"gold": "1"', "line 2 must be a JSON object, but is no valid JSON"),
        ("7", "line 2 must be an object with gold, answer, equal, got 7"),
        ('{"gold": 1, "answer": "1", "equal": true}', "line 2 must have texts as gold and answer"),
    ],
)
def test_a_file_with_other_rows_is_refused_with_its_path_and_line_before_anything_is_graded(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"gold": "1", "answer": "1", "equal": true}\n' + line)
    with pytest.raises(SystemExit, match="2"):
        _BENCHMARK["main"](["--pairs", str(file)])
    said = capsys.readouterr()
    assert f"{file} {message}" in said.err
    assert said.out == ""


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        _BENCHMARK["main"](["--pairs", "nowhere/pairs.jsonl"])
    assert "No such file or directory: 'nowhere/pairs.jsonl'" in capsys.readouterr().err


def test_the_report_names_the_whole_path_and_what_undecided_means(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = _BENCHMARK["main"]
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        '{"gold": "1", "answer": "1", "equal": true}\n{"gold": "1", "answer": "5!!", "equal": false}'
    )
    monkeypatch.setitem(main.__globals__, "_PAIRS", file)
    monkeypatch.setitem(main.__globals__, "workload", list)
    main([])
    report = capsys.readouterr().out
    assert f"{file}: 1 of 2 right, 1 undecided (bombs, limits)" in report
