"""Lays the results of a sweep beside printed ones, and says which pairs can be compared. For the audit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensweep.identity import read_json
from tokensweep_analysis.claims import POOLED
from tokensweep_analysis.intervals import Estimate
from tokensweep_analysis.metrics import Kind, Metric
from tokensweep_analysis.published.benchmarks import benchmark
from tokensweep_analysis.published.reader import Cell
from tokensweep_analysis.published.spelling import Statistic
from tokensweep_analysis.tables import Comparison, Row, compare
from tokensweep_analysis.wording import counted

_MOST_CHOICES = 20  # variants listed in an error
_KINDS = {Statistic.avg: Kind.pass_at, Statistic.pass_at: Kind.pass_at, Statistic.maj_at: Kind.maj_at}


@dataclass(frozen=True, kw_only=True)
class Reason:
    """In what an own and a printed number differ."""

    own: str  # for example "model tiny"
    printed: str = ""  # what it is instead of, empty when there is nothing to set against it

    def __str__(self) -> str:
        return f"{self.own} instead of {self.printed}" if self.printed else self.own


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A printed number and what the sweep has for it; comparable when there are no ``reasons`` against it."""

    setting: str
    arm: str
    cell: Cell
    own: Estimate | None
    reasons: tuple[Reason, ...] = ()

    @property
    def is_comparable(self) -> bool:
        """Whether base model, benchmark, metric and samples agree."""
        return not self.reasons


def lay_beside(cells: Sequence[Cell], store: Path, sweep: str, *, names: Mapping[str, str]) -> list[Pair]:
    """Printed numbers with the arms of a sweep that stand for them, the comparable ones first.

    ``names`` gives the printed variant, method or arm of an own arm; other arms need the same name. Each
    number is paired with the own row of its arm that differs in the fewest respects. Raises ValueError for an
    arm or a variant that does not exist, and when no arm has a printed counterpart.
    """
    comparison = compare(store, sweep)
    models = _models(store, sweep)
    arms = list(dict.fromkeys(row.arm for row in comparison.rows))
    _check_names(names, arms, cells, sweep)
    pairs = [
        pair
        for arm in arms
        for cell in cells
        if _stands_for(arm, cell, names) and not cell.benchmark.is_mean and cell.metric.is_accuracy
        for pair in _closest(cell, arm, comparison, models)
    ]
    if not pairs:
        raise ValueError(
            f"an arm of {sweep} must stand for a printed variant, got none of the same name: give "
            f"--map ARM=VARIANT; arms are {', '.join(arms)}"
        )
    for arm in names:
        if all(pair.arm != arm for pair in pairs):
            raise ValueError(
                f"--map must name a variant with an accuracy on a benchmark, got {names[arm]!r} for {arm!r}: "
                "it has averages and lengths only; drop it"
            )
    return sorted(pairs, key=lambda pair: (len(pair.reasons), pair.cell.line))


def _models(store: Path, sweep: str) -> dict[tuple[str, str], str]:
    """The base model by setting and arm."""
    entries: list[Mapping[str, Any]] = read_json(store / "sweeps" / sweep / "sweep.json")["runs"]
    models = {}
    for entry in entries:
        plan = store / "runs" / str(entry["run_id"]) / "plan.json"
        if plan.is_file():
            node: Mapping[str, Any] = read_json(plan)["identity"].get("model", {})
            name = node.get("path") or str(node.get("_component_", "unknown")).rpartition("/")[2]
            models[str(entry["setting"]), str(entry["arm"])] = str(name)
    return models


def _check_names(names: Mapping[str, str], arms: Sequence[str], cells: Sequence[Cell], sweep: str) -> None:
    printed = {_plain(name) for cell in cells for name in (cell.variant, cell.method, cell.arm) if name}
    for arm, variant in names.items():
        if arm not in arms:
            raise ValueError(f"--map must name an arm of {sweep}, got {arm!r}: arms are {', '.join(arms)}")
        if _plain(variant) not in printed:
            raise ValueError(
                f"--map must name a variant or method of the file, got {variant!r}: it has {_choices(cells)}"
            )


def _choices(cells: Sequence[Cell]) -> str:
    """What ``--map`` may name, the first few."""
    names = list(dict.fromkeys(cell.variant or cell.method for cell in cells))
    more = len(names) - _MOST_CHOICES
    return "; ".join(names[:_MOST_CHOICES]) + (
        f" and {more} more; narrow it with --paper" if more > 0 else ""
    )


def _stands_for(arm: str, cell: Cell, names: Mapping[str, str]) -> bool:
    wanted = _plain(names.get(arm, arm))
    return wanted in {_plain(name) for name in (cell.variant, cell.method, cell.arm) if name}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9%+]", "", name.lower())


def _closest(
    cell: Cell, arm: str, comparison: Comparison, models: Mapping[tuple[str, str], str]
) -> Iterator[Pair]:
    pairs = [
        _pair(cell, row, models) for row in comparison.rows if row.arm == arm and row.benchmark != POOLED
    ]
    fewest = min((len(pair.reasons) for pair in pairs), default=0)
    yield from [pair for pair in pairs if len(pair.reasons) == fewest][:1]


def _pair(cell: Cell, row: Row, models: Mapping[tuple[str, str], str]) -> Pair:
    metric = _metric(cell)
    own = row.results.get(metric) if metric else None
    reasons = tuple(_differences(cell, row, own, models.get((row.setting, row.arm), "unknown")))
    return Pair(setting=row.setting, arm=row.arm, cell=cell, own=own, reasons=reasons)


def _metric(cell: Cell) -> Metric | None:
    """Our name of the printed statistic."""
    kind = _KINDS.get(cell.metric.statistic)
    if kind is None:
        return None
    return Metric(kind, 1 if cell.metric.statistic is Statistic.avg else cell.metric.k or 1)


def _differences(cell: Cell, row: Row, own: Estimate | None, model: str) -> Iterator[Reason]:
    """In what a printed number and an own row differ that must be alike."""
    if _plain(model.rpartition("/")[2]) != _plain(cell.base_model.rpartition("/")[2]):
        yield Reason(own=f"model {model}", printed=cell.base_model)
    if benchmark(row.benchmark).name != cell.benchmark.name:
        yield Reason(own=f"benchmark {row.benchmark}", printed=cell.benchmark_text)
    elif row.num_questions and cell.benchmark.sizes and row.num_questions not in cell.benchmark.sizes:
        yield Reason(own=counted(row.num_questions, "question"), printed=str(cell.benchmark.size))
    if own is None:
        yield Reason(own=f"no {cell.metric} here" if row.seeds else "no finished run here")
    elif cell.metric.statistic is Statistic.avg and cell.metric.num_samples is None:
        yield Reason(own="number of samples not printed")
    elif cell.metric.statistic is Statistic.avg and cell.metric.num_samples != row.num_samples:
        yield Reason(own=f"avg@{row.num_samples}", printed=str(cell.metric))
