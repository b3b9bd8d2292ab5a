"""Checks whether printed accuracies are possible: correct answers are whole numbers. For the audit.

An accuracy over Q questions with n samples each is m / (Q n). A printed number that no m rounds to had other
questions, other samples, or a slip of the pen. pass@k read off k samples is a multiple of 1 / Q, and so is
pass@1 off one; estimated from more samples, which tables often leave out, they are not. So pass@k off the
grid is a slip only when another number of questions explains it, and a note otherwise. Numbers that each fit
some size that the benchmark is used with are a note as well: tables repeat rows of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, prod

from tokensweep_analysis.published.benchmarks import Benchmark
from tokensweep_analysis.published.finding import Checked, Finding, Rule, grouped, in_order
from tokensweep_analysis.published.reader import Cell, Printed
from tokensweep_analysis.published.spelling import PrintedMetric, Statistic
from tokensweep_analysis.wording import counted

_MORE_QUESTIONS = 5  # other numbers of questions are tried up to that many above the known one
_BY_CHANCE = 0.05  # another number is named when fewer are expected to fit by chance
_MOST_NAMED = 3
_TELLING = 0.25  # that cutting explains a value is said where few values would fit by chance

NOT_ACCURACY = "not an accuracy of one benchmark"
NO_SIZE = "size of the benchmark unknown, grid not checked"
NO_SAMPLES = "number of samples not printed, grid not checked"
NO_GRID = "estimated from more than k samples: no grid"
TOO_FINE = "grid finer than the printed decimals: not informative"


@dataclass(frozen=True, kw_only=True)
class _Group:
    """One benchmark and metric in one paper: its numbers come from the same questions."""

    benchmark: Benchmark
    metric: PrintedMetric
    num_draws: int  # that each question's share is a multiple of 1 over
    cells: tuple[Cell, ...]

    def values(self) -> list[tuple[Printed, Cell]]:
        """Each printed number once, those of baselines that have no row of their own at the end."""
        seen: dict[str, tuple[Printed, Cell]] = {}
        for cell in self.cells:
            seen.setdefault(cell.value.text, (cell.value, cell))
        for cell in self.cells:
            if cell.baseline:
                seen.setdefault(cell.baseline.text, (cell.baseline, cell))
        return list(seen.values())


def fits(value: Printed, size: int) -> bool:
    """Whether some whole number of ``size`` rounds to the printed number."""
    return value.is_near(100 * round(value.points / 100 * size) / size)


def is_informative(value: Printed, size: int) -> bool:
    """Whether the grid 1 / ``size`` leaves out some number with these decimals."""
    return 100 / size > 2 * value.rounding + 1e-9


def check_grid(cells: Sequence[Cell]) -> Checked:
    """Accuracies that their number of questions cannot give, by paper, benchmark and metric."""
    largest = largest_k(cells)
    skipped: Counter[str] = Counter()
    known: dict[int, int] = {}
    for cell in cells:
        num_draws, reason = draws(cell, largest[cell.line])
        if reason:
            skipped[reason] += 1
        else:
            known[cell.line] = num_draws
    findings: list[Finding] = []
    num_checked = 0
    by_group = grouped(
        (cell for cell in cells if cell.line in known),
        lambda cell: (cell.source, cell.benchmark, cell.metric, known[cell.line]),
    )
    for (_, benchmark, metric, num_draws), own in by_group.items():
        group = _Group(benchmark=benchmark, metric=metric, num_draws=num_draws, cells=tuple(own))
        num_checked += sum(is_informative(cell.value, group.benchmark.sizes[0] * num_draws) for cell in own)
        findings += _check(group)
    skipped[TOO_FINE] += len(known) - num_checked
    return Checked(findings=tuple(findings), num_checked=num_checked, skipped=in_order(dict(+skipped)))


def largest_k(cells: Sequence[Cell]) -> dict[int, int]:
    """By line, the largest k that its arm has on its benchmark."""
    groups = grouped(cells, lambda cell: (cell.source, cell.base_model, cell.arm, cell.benchmark.name))
    return {cell.line: max(other.metric.k or 1 for other in own) for own in groups.values() for cell in own}


def draws(cell: Cell, largest_k: int) -> tuple[int, str]:
    """Of what each question's share is a multiple, or why that is unknown.

    Means over training runs have that many more draws. An arm that has pass@k up to ``largest_k`` on a
    benchmark drew at least so many samples: its pass@1 is no single draw.
    """
    metric = cell.metric
    if not metric.is_accuracy or metric.statistic is Statistic.mean or cell.benchmark.is_mean:
        return 0, NOT_ACCURACY
    if not cell.benchmark.sizes:
        return 0, NO_SIZE
    if metric.statistic is Statistic.avg:
        return (metric.num_samples * cell.num_seeds, "") if metric.num_samples else (0, NO_SAMPLES)
    if metric.unbiased or metric.statistic is not Statistic.pass_at or metric.k not in (1, largest_k):
        return 0, NO_GRID
    return (1 if metric.k == largest_k else largest_k) * cell.num_seeds, ""


def _check(group: _Group) -> Iterable[Finding]:
    """At most one finding: what is off the grid of the size that fits most."""
    values = [
        pair for pair in group.values() if is_informative(pair[0], group.benchmark.sizes[0] * group.num_draws)
    ]
    off = {size: _off(values, size * group.num_draws) for size in group.benchmark.sizes}
    usual = group.benchmark.sizes[0]
    if not off[usual]:
        return
    for size in group.benchmark.sizes[1:]:
        if not off[size]:
            yield _other_size(group, off[usual], size)
            return
    yield _off_grid(group, off[usual], num_fitting=len(values) - len(off[usual]))


def _off(values: Sequence[tuple[Printed, Cell]], size: int) -> list[tuple[Printed, Cell]]:
    return [pair for pair in values if not fits(pair[0], size)]


def _other_size(group: _Group, off: Sequence[tuple[Printed, Cell]], size: int) -> Finding:
    usual = group.benchmark.sizes[0]
    text = (
        f"{_listed(off)} cannot come from {usual} questions; every number of the column fits {size}, "
        "which this benchmark is also used with"
    )
    return _finding(group, off, text=text, expected=f"multiples of 1/{size * group.num_draws}", is_slip=False)


def _off_grid(group: _Group, off: Sequence[tuple[Printed, Cell]], *, num_fitting: int) -> Finding:
    usual, metric = group.benchmark.sizes[0], group.metric
    size = usual * group.num_draws
    others = _other_sizes(group, [value for value, _ in off])
    drawn = "" if group.num_draws == 1 else f" x {group.num_draws} samples"
    parts = [f"{_listed(off)} cannot come from {usual} questions{drawn}: {_nearest(off, size)}"]
    if others:
        rest = (
            f", while {counted(num_fitting, 'other number')} of the column fit {usual}" if num_fitting else ""
        )
        parts.append(f"{'it fits' if len(off) == 1 else 'all fit'} {_either(others)} questions{rest}")
    elif metric.statistic is Statistic.pass_at:
        more = f"more than {counted(metric.k or 1, 'sample')} per question"
        parts.append(f"possible if {metric} is estimated from {more}, which the table does not say")
    else:
        cut = [pair for pair in off if fits_cut(pair[0], size) and _coverage(pair[0], size) <= _TELLING]
        parts += [f"{_listed(cut)} would fit if cut instead of rounded"] if cut else []
    elsewhere = {n: _on(off, n * group.num_draws) for n in group.benchmark.sizes[1:]}
    for n, pairs in elsewhere.items():
        verb = "fits" if len(pairs) == 1 else "fit"
        parts += [f"{_listed(pairs)} {verb} {n}, which this benchmark is also used with"] if pairs else []
    explained = {value.text for pairs in elsewhere.values() for value, _ in pairs}
    unexplained = any(value.text not in explained for value, _ in off)
    is_slip = bool(others) or (metric.statistic is not Statistic.pass_at and unexplained)
    return _finding(group, off, text="; ".join(parts), expected=f"multiples of 1/{size}", is_slip=is_slip)


def _on(values: Sequence[tuple[Printed, Cell]], size: int) -> list[tuple[Printed, Cell]]:
    return [pair for pair in values if fits(pair[0], size)]


def fits_cut(value: Printed, size: int) -> bool:
    """Whether a whole number of ``size`` gives the printed number when further decimals are cut off."""
    exact = 100 * ceil(value.points / 100 * size - 1e-9) / size
    return 0 <= exact - value.points < 2 * value.rounding - 1e-9


def _other_sizes(group: _Group, values: Sequence[Printed]) -> list[int]:
    """Numbers of questions that all values fit, nearest first; none when that could well be chance."""
    usual = group.benchmark.sizes[0]
    sizes = [n for n in range(2, usual + _MORE_QUESTIONS + 1) if n != usual]
    sizes = [n for n in sizes if all(is_informative(value, n * group.num_draws) for value in values)]
    expected = sum(prod(_coverage(value, n * group.num_draws) for value in values) for n in sizes)
    if expected >= _BY_CHANCE:
        return []
    found = [n for n in sizes if all(fits(value, n * group.num_draws) for value in values)]
    return sorted(found, key=lambda n: abs(n - usual))[:_MOST_NAMED]


def _coverage(value: Printed, size: int) -> float:
    """The share of numbers with these decimals that fit the grid."""
    return min(1.0, 2 * value.rounding * (size + 1) / 100)


def _nearest(off: Sequence[tuple[Printed, Cell]], size: int) -> str:
    value = off[0][0]
    place = value.points / 100 * size
    digits = max(2, len(value.text.partition(".")[2]) + 1)
    near = [f"{100 * m / size:.{digits}f}" for m in (floor(place), ceil(place)) if m <= size]
    return f"{'nearest to ' + value.text + ' are' if len(off) > 1 else 'nearest are'} {' and '.join(near)}"


def _listed(values: Sequence[tuple[Printed, Cell]]) -> str:
    texts = [value.text for value, _ in values]
    more = f" and {len(texts) - 8} more" if len(texts) > 8 else ""
    return ", ".join(texts[:8]) + more


def _either(sizes: Sequence[int]) -> str:
    return " or ".join(map(str, sizes))


def _finding(
    group: _Group, off: Sequence[tuple[Printed, Cell]], *, text: str, expected: str, is_slip: bool
) -> Finding:
    wrong = {value.text for value, _ in off}
    cells = [c for c in group.cells if c.value.text in wrong or (c.baseline and c.baseline.text in wrong)]
    own = [c for c in cells if c.value.text in wrong] or cells
    models = ", ".join(dict.fromkeys(c.base_model for c in own))
    return Finding(
        rule=Rule.grid,
        source=own[0].source,
        where=f"{own[0].benchmark_text} {group.metric}, {models}",
        lines=tuple(c.line for c in own),
        printed=_listed(off),
        expected=expected,
        text=text,
        is_slip=is_slip,
    )
