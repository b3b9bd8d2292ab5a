"""The README's results are put in by a script, whole and in place."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = Path(__file__).parents[2] / "benchmarks" / "readme_results.py"
_BEGIN, _END = "<!-- results:begin -->", "<!-- results:end -->"

Make = Callable[..., None]


def _run(*arguments: str | Path) -> None:
    script: dict[str, Any] = runpy.run_path(str(_SCRIPT))
    script["main"]([str(argument) for argument in arguments])


@pytest.fixture
def done(tmp_path: Path, make_run: Make, make_sweep: Make) -> Path:
    """A store with a finished sweep: two arms, two seeds, 2 questions of 4 samples."""
    make_run(tmp_path, "a0", correct=[4, 2], seed=0)
    make_run(tmp_path, "a1", correct=[4, 0], seed=1)
    make_run(tmp_path, "t0", correct=[4, 3], seed=0)
    make_run(tmp_path, "t1", correct=[4, 2], seed=1)
    make_sweep(tmp_path, [("all", 0, "a0"), ("all", 1, "a1"), ("top", 0, "t0"), ("top", 1, "t1")])
    return tmp_path


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    """A README with an old table."""
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\nbefore\n\n{_BEGIN}\nold\n{_END}\n\nafter\n")
    return path


def test_the_table_replaces_only_what_stands_between_the_markers(done: Path, readme: Path) -> None:
    _run(done, "demo", "--readme", readme)
    text = readme.read_text()
    assert text.startswith(f"# Title\n\nbefore\n\n{_BEGIN}\n")
    assert text.endswith(f"{_END}\n\nafter\n")
    assert "old" not in text


def test_the_table_has_results_with_intervals_and_costs_and_one_line_on_what_they_are(
    done: Path, readme: Path
) -> None:
    # all: 10 of 16 samples correct, top: 13 of 16; pass@4 is 1, 1, 1, 0 and 1 everywhere.
    _run(done, "demo", "--readme", readme)
    header, _, first, second = [line for line in readme.read_text().splitlines() if line.startswith("|")]
    assert header == (
        "| arm | runs | avg@n [95 %] | pass@4 [95 %] | avg@n vs all [95 %] | tokens kept % | seconds |"
    )
    assert first.startswith("| all | 2/2 | 62.5 [")
    assert second.startswith("| top | 2/2 | 81.2 [")
    assert "| 75.0 [" in first
    assert "| +18.8 [" in second
    assert second.endswith("| 20.0 | 0 |")
    (line,) = [line for line in readme.read_text().splitlines() if line.startswith("Points")]
    for fact in (
        "estimand E4",
        "scale tiny",
        "seeds 0 1",
        "2 questions",
        "4 samples",
        "abc123",
        "no evidence",
    ):
        assert fact in line


def test_writing_the_same_results_twice_changes_nothing(done: Path, readme: Path) -> None:
    _run(done, "demo", "--readme", readme)
    once = readme.read_text()
    _run(done, "demo", "--readme", readme)
    assert readme.read_text() == once


@pytest.mark.parametrize("text", ["none\n", f"{_BEGIN}\n", f"{_END}\n{_BEGIN}\n", f"{_BEGIN}{_END}{_BEGIN}"])
def test_a_readme_without_its_markers_is_refused_and_kept(
    done: Path, readme: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    readme.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        _run(done, "demo", "--readme", readme)
    assert f"README.md must have {_BEGIN} and below it {_END}" in capsys.readouterr().err
    assert readme.read_text() == text


def test_a_sweep_that_is_not_finished_is_refused(
    store: Path, readme: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        _run(store, "demo", "--readme", readme)
    assert "every run of demo must have finished or failed, got runs that are missing" in (
        capsys.readouterr().err
    )
    assert "old" in readme.read_text()
