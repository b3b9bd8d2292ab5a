"""Finds numbers that a table prints twice, and differently. For the audit."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from tokensweep_analysis.published.averages import averaged
from tokensweep_analysis.published.finding import Checked, Finding, Rule, grouped
from tokensweep_analysis.published.reader import Cell


def check_contradictions(cells: Sequence[Cell]) -> Checked:
    """One arm, benchmark and metric with two values.

    A remark in parentheses on where a number is printed, such as ``(Table 1)``, does not make another arm.
    """
    groups = grouped(cells, lambda cell: (*_column(cell), cell.same_arm))
    findings = [_contradiction(own, cells) for own in groups.values() if _differ(own)]
    return Checked(findings=tuple(findings), num_checked=sum(len(own) > 1 for own in groups.values()))


def check_baselines(cells: Sequence[Cell]) -> Checked:
    """Baseline values that no row of their table has, although it has the baseline's row.

    A row without a baseline value is taken for a baseline. Where a table has none, several baseline values of
    one column are named as something to look at, since they may be meant.
    """
    findings: list[Finding] = []
    num_checked = 0
    for own in grouped(cells, _column).values():
        users = [cell for cell in own if cell.baseline]
        num_checked += len(users)
        if any(cell.baseline is None for cell in own):
            findings += _unknown_baselines(own, users)
        elif _several_baselines(users):
            findings.append(_two_baselines(users))
    return Checked(findings=tuple(findings), num_checked=num_checked)


def _column(cell: Cell) -> tuple[Hashable, ...]:
    """What rows share whose numbers are compared: paper, base model, benchmark and metric."""
    return (
        cell.source,
        cell.base_model,
        cell.benchmark,
        cell.benchmark_text if cell.benchmark.is_mean else "",
        cell.metric,
    )


def _differ(own: Sequence[Cell]) -> bool:
    return any(not _same(cell, own[0]) for cell in own)


def _same(cell: Cell, other: Cell) -> bool:
    """Whether two printings can be one number, rounded to different decimals."""
    coarse = max(cell.value.rounding, other.value.rounding)
    fine = min(cell.value.rounding, other.value.rounding)
    slack = 0.0 if coarse == fine else coarse
    return abs(cell.value.points - other.value.points) <= slack + 1e-9


def _contradiction(own: Sequence[Cell], cells: Sequence[Cell]) -> Finding:
    texts = list(dict.fromkeys(cell.value.text for cell in own))
    where = "; ".join(f"{cell.value.text} in line {cell.line} ({cell.arm})" for cell in own)
    first = own[0]
    return Finding(
        rule=Rule.contradiction,
        source=first.source,
        where=f"{first.base_model}, {first.same_arm}: {first.benchmark_text} {first.metric}",
        lines=tuple(cell.line for cell in own),
        printed=" and ".join(texts),
        expected="one value",
        text=f"one number is printed as {where}{_supported(own, cells)}",
    )


def _supported(own: Sequence[Cell], cells: Sequence[Cell]) -> str:
    """Which of the values a printed average of the arm fits, empty when that tells nothing."""
    arm = [
        c
        for c in cells
        if (c.source, c.base_model, c.same_arm) == (own[0].source, own[0].base_model, own[0].same_arm)
    ]
    rest = [cell for cell in arm if cell not in own]
    for average in (cell for cell in arm if cell.benchmark.is_mean):
        fitting = []
        for cell in own:
            parts, reason = averaged(average, [*rest, cell])
            mean = 0.0 if reason else sum(part.value.points for part in parts) / len(parts)
            slack = 0.0 if reason else sum(part.value.rounding for part in parts) / len(parts)
            if not reason and cell in parts and average.value.is_near(mean, slack):
                fitting.append(cell.value.text)
        if fitting and len(set(fitting)) < len({cell.value.text for cell in own}):
            printed = f"{average.value.text} (line {average.line})"
            return f"; the printed average {printed} fits {' or '.join(fitting)}"
    return ""


def _unknown_baselines(own: Sequence[Cell], users: Iterable[Cell]) -> list[Finding]:
    known = [cell.value for cell in own]
    found = []
    for text, wrong in grouped(users, lambda cell: cell.baseline.text if cell.baseline else "").items():
        baseline = wrong[0].baseline
        if baseline is None or any(value.is_near(baseline.points, baseline.rounding) for value in known):
            continue
        rows = [cell for cell in own if cell.baseline is None]
        there = ", ".join(f"{cell.value.text} ({cell.arm}, line {cell.line})" for cell in rows)
        expected = ", ".join(dict.fromkeys(cell.value.text for cell in rows))
        found.append(
            _baseline_finding(
                wrong,
                printed=text,
                expected=expected,
                text=f"baseline value {text}, but its rows say {there}",
            )
        )
    return found


def _several_baselines(users: Sequence[Cell]) -> bool:
    baselines = [cell.baseline for cell in users if cell.baseline]
    return any(abs(each.points - baselines[0].points) > each.rounding + 1e-9 for each in baselines)


def _two_baselines(users: Sequence[Cell]) -> Finding:
    by_text = grouped(users, lambda cell: cell.baseline.text if cell.baseline else "")
    where = "; ".join(f"{text} in {_lines(own)}" for text, own in by_text.items())
    return _baseline_finding(
        users,
        printed=", ".join(by_text),
        expected="one value, or two baselines",
        text=f"one column starts from several baseline values and has no row for them: {where}",
        is_slip=False,
    )


def _lines(cells: Sequence[Cell]) -> str:
    noun = "line" if len(cells) == 1 else "lines"
    return f"{noun} {', '.join(str(cell.line) for cell in cells)}"


def _baseline_finding(
    wrong: Sequence[Cell], *, printed: str, expected: str, text: str, is_slip: bool = True
) -> Finding:
    first = wrong[0]
    return Finding(
        rule=Rule.baseline,
        source=first.source,
        where=f"{first.base_model}: {first.benchmark_text} {first.metric}",
        lines=tuple(cell.line for cell in wrong),
        printed=printed,
        expected=expected,
        text=text,
        is_slip=is_slip,
    )
