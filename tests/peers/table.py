"""Run every comparison with TRL and verl and put its figures into README.md next to this file.

    python tests/peers/table.py

It replaces what stands between ``<!-- table:begin -->`` and ``<!-- table:end -->``, so that no figure is
typed, and writes nothing unless every comparison holds.
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

import pytest

_FOLDER = Path(__file__).resolve().parent
_BEGIN, _END = "<!-- table:begin -->", "<!-- table:end -->"
_HEAD = ("ours", "peer", "compared", "value", "gradient", "between the two")


class Recorder:
    """A pytest plugin that keeps the rows of passed comparisons and the named differences."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.differences: dict[str, str] = {}  # by the name of the test that proves it

    def pytest_itemcollected(self, item: pytest.Function) -> None:
        """Read the sentence of a named difference off its test."""
        if item.path.name == "test_differences.py":
            sentence = " ".join(inspect.cleandoc(item.function.__doc__ or "").split())
            self.differences[item.originalname] = sentence

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the row that a comparison recorded."""
        if report.when == "call" and report.passed:
            for name, row in report.user_properties:
                if name == "table_row":
                    assert isinstance(row, list)
                    self.rows.append(row)

    def markdown(self) -> str:
        """The table and the list."""
        lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        lines += ["", f"{len(self.rows)} comparisons; differences of value and gradient are the largest of"]
        lines += ["five random tables, absolute. Named differences, each with the test that proves it:", ""]
        lines += [f"- {sentence} (`{test}`)" for test, sentence in self.differences.items()]
        return "\n".join(lines)


def main() -> None:
    """The command. Exits with pytest's status when a comparison does not hold."""
    argparse.ArgumentParser(
        description="Run every comparison with TRL and verl and put the figures into README.md.",
        epilog="Writes nothing unless every comparison holds.",
    ).parse_args()
    recorder = Recorder()
    comparisons = [str(_FOLDER / f"test_{name}.py") for name in ("verl", "trl", "differences")]
    status = pytest.main([*comparisons, "-q", "-p", "no:cacheprovider"], plugins=[recorder])
    if status != pytest.ExitCode.OK:
        raise SystemExit(f"every comparison must hold, pytest ended with {status}: README.md is as it was")
    readme = _FOLDER / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert end, f"{readme} must have {_BEGIN} and below it {_END}"
    readme.write_text(f"{before}{_BEGIN}\n\n{recorder.markdown()}\n\n{_END}{after}", encoding="utf-8")
    print(f"{len(recorder.rows)} comparisons stand in {readme}")


if __name__ == "__main__":
    main()
