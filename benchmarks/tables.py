"""Markdown tables of benchmark results, and the file that they stand in."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.frame import Benchmark, Case, Goal
from tokensweep.files import write_text

README = Path(__file__).resolve().parent / "README.md"

Rounds = Sequence[Mapping[str, float]]


def insert_tables(readme: Path, tables: Mapping[str, str], *, block: str = "benchmarks") -> None:
    """Replace what stands between the markers of a block of ``readme`` by the tables, in one step.

    Raises ValueError unless it has each marker once and in order.
    """
    first, last = (f"<!-- {block}:{side} -->" for side in ("begin", "end"))
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not end or text.count(first) + text.count(last) != 2:
        raise ValueError(f"{readme} must have {first} and below it {last}, each once")
    body = "\n".join(tables.values())
    write_text(readme, f"{before}{begin}\n\n{body}\n{end}{after}")


def to_markdown(benchmark: Benchmark, result: Mapping[str, Any]) -> str:
    """A section with one table per case that was run, medians over its rounds, and a line on where."""
    parts = [f"## {benchmark.title}\n", f"{benchmark.note}\n"]
    known = {case.name: case for case in (*benchmark.cases, *benchmark.small)}
    for name, rounds in result["cases"].items():
        parts += [f"### {name}\n", *_rows(benchmark, known[name], rounds), ""]
    parts.append(f"{where_line(result['where'])}\n")
    return "\n".join(parts)


def _rows(benchmark: Benchmark, case: Case, rounds: Mapping[str, Rounds]) -> list[str]:
    value = f"{benchmark.rate} per CPU s" if benchmark.rate else f"CPU s per {benchmark.unit}"
    heads = ["variant", value, f"ratio to {case.baseline}", "extra peak MB", "wall s", "rounds", "goal"]
    base = _value(benchmark, rounds[case.baseline])
    rows = [
        [
            variant,
            short(_value(benchmark, own)),
            f"{_value(benchmark, own) / base:.2f}",
            f"{_median(own, 'peak_mb'):.0f}",
            short(_median(own, "wall_s")),
            str(len(own)),
            _goal(benchmark, case.goals.get(variant), own, base=base),
        ]
        for variant, own in rounds.items()
    ]
    lines = [heads, ["---", *["---:"] * 5, "---"], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _value(benchmark: Benchmark, rounds: Rounds) -> float:
    """CPU seconds, or what was produced in one; the median over the rounds."""
    cpu_s = _median(rounds, "cpu_s")
    return _median(rounds, "amount") / cpu_s if benchmark.rate else cpu_s


def _goal(benchmark: Benchmark, goal: Goal | None, rounds: Rounds, *, base: float) -> str:
    if goal is None:
        return ""
    ratio = _value(benchmark, rounds) / base
    met, parts = True, []
    if goal.ratio is not None:
        met = ratio >= goal.ratio if benchmark.rate else ratio <= goal.ratio
        parts.append(f"{'≥' if benchmark.rate else '≤'} {goal.ratio:g}")
    for most, key, unit in ((goal.peak_mb, "peak_mb", "MB"), (goal.wall_s, "wall_s", "s")):
        if most is not None:
            met &= _median(rounds, key) <= most
            parts.append(f"≤ {most:g} {unit}")
    return f"{', '.join(parts)}: {'met' if met else 'missed'}"


def _median(rounds: Rounds, key: str) -> float:
    return statistics.median(measured[key] for measured in rounds)


def short(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def where_line(where: Mapping[str, Any]) -> str:
    """The machine, the day and the versions of a result."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return (
        f"{where['processor']}, {where['cores']} cores, load {where['load']:g} at the end, {where['date']}; "
        f"Python {where['python']}, {versions}; training code {where['code']}."
    )
