"""What a printed difference can support, given the questions, samples and runs it rests on. For the audit.

A table prints no spread, so the spread is taken from elsewhere: the variance components were measured on
AIME-like sets and on training seeds of published runs, or, for two variants of one base model, assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf, sqrt

from scipy import stats

from tokensweep_analysis.power import CENTRAL, Components, detectable_difference
from tokensweep_analysis.published.averages import averaged
from tokensweep_analysis.published.benchmarks import benchmark
from tokensweep_analysis.published.finding import grouped
from tokensweep_analysis.published.grid import largest_k
from tokensweep_analysis.published.reader import Cell
from tokensweep_analysis.published.spelling import Statistic

ONE_RUN = (
    "One training run per arm says nothing about the method: a supported difference is one between two "
    "checkpoints, and other seeds may give another."
)
_METHOD_RUNS = 3  # training runs per arm from which a claim is about the method


class Verdict(StrEnum):
    """What a printed difference can support."""

    supported = "supported for these checkpoints"
    supported_method = "supported"  # enough training runs to speak of the method
    inconclusive = "inconclusive"
    unknown = "cannot be judged"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a number rests on. ``num_samples`` is inf where the table does not say: the best case."""

    num_questions: int
    num_samples: float  # per question


@dataclass(frozen=True, kw_only=True)
class Support:
    """A printed difference in points; interval and detectable difference are None when not judged."""

    source: str
    base_model: str
    arm: str
    benchmark: str
    metric: str
    line: int
    difference: float
    num_seeds: int
    verdict: Verdict
    protocols: tuple[Protocol, ...] = ()
    low: float | None = None
    high: float | None = None
    detectable: float | None = None
    remark: str = ""
    is_mean: bool = False


def standard_error(
    protocols: Sequence[Protocol], *, num_seeds: int = 1, components: Components = CENTRAL
) -> float:
    """Standard error, as a share, of the difference of two arms on the mean of B benchmarks.

    ``V_b = omega^2/Q + 2 sigma_sq^2/(Q S) + 2 w/(Q S n)``, ``V = sum V_b / B^2 + 2 sigma_s^2/S``: questions
    and samples average out over benchmarks, a training seed does not. Raises ValueError without a benchmark
    or a run.
    """
    if not protocols or num_seeds < 1:
        raise ValueError(
            f"a difference needs a benchmark and a run per arm, got {len(protocols)} and {num_seeds}"
        )
    residual = sum(_residuals(protocols, num_seeds=num_seeds, components=components))
    questions = sum(_questions(protocols, components))
    return sqrt(questions + residual + 2 * components.sigma_seed**2 / num_seeds)


def detectable(
    protocols: Sequence[Protocol], *, num_seeds: int = 1, components: Components = CENTRAL
) -> float:
    """The smallest true difference, as a share, found in 80 of 100 repetitions at 5 % two-sided.

    With one run the seed variance counts as known and the degrees of freedom are those of the questions, else
    Satterthwaite's over questions and runs. Unlike :func:`power.design_detectable`, seeds count with one run
    too, and each benchmark has its own samples.
    """
    error = standard_error(protocols, num_seeds=num_seeds, components=components)
    residuals = _residuals(protocols, num_seeds=num_seeds, components=components)
    v_q = [sum(parts) for parts in zip(_questions(protocols, components), residuals, strict=True)]
    variance = sum(v_q)
    squares = sum(v**2 / (p.num_questions - 1) for v, p in zip(v_q, protocols, strict=True))
    if num_seeds > 1:
        v_s = 2 * components.sigma_seed**2 / num_seeds + sum(residuals)
        variance += v_s
        squares += v_s**2 / (2 * (num_seeds - 1))
    return float(detectable_difference(error, variance**2 / squares))


def _questions(protocols: Sequence[Protocol], components: Components) -> list[float]:
    """Per benchmark, the variance from other questions."""
    return [components.omega**2 / each.num_questions / len(protocols) ** 2 for each in protocols]


def _residuals(protocols: Sequence[Protocol], *, num_seeds: int, components: Components) -> list[float]:
    """Per benchmark, the variance from what a seed does to single questions, and from samples."""
    cells = [components.sigma_seed_question**2 + components.within / each.num_samples for each in protocols]
    return [
        2 * cell / (each.num_questions * num_seeds * len(protocols) ** 2)
        for cell, each in zip(cells, protocols, strict=True)
    ]


def supports(
    cells: Sequence[Cell], *, pool: Sequence[str] = (), components: Components = CENTRAL
) -> list[Support]:
    """Every printed difference of accuracies with what it can support, in the order of the file.

    ``pool`` names benchmarks whose mean difference is added for every arm that has all of them. Raises
    ValueError for one that no row has, for one named twice, and when no arm has all.
    """
    if pool:
        _check_pool(cells, pool)
    largest = largest_k(cells)
    found, num_pooled = [], 0
    for own in grouped(cells, lambda cell: (cell.source, cell.base_model, cell.arm)).values():
        for cell in own:
            if cell.baseline is None or not cell.metric.is_accuracy:
                continue
            parts, reason = averaged(cell, own) if cell.benchmark.is_mean else ([cell], "")
            found.append(_support(cell, parts, reason, largest, components))
        pooled = list(_pooled(own, pool, largest, components)) if pool else []
        found += pooled
        num_pooled += len(pooled)
    if pool and not num_pooled:
        raise ValueError(
            f"--pool must name benchmarks of one arm, each with a baseline_value, got {', '.join(pool)}: "
            "no arm has all of them in one metric; name fewer"
        )
    return found


def _check_pool(cells: Sequence[Cell], pool: Sequence[str]) -> None:
    """That every name of ``pool`` is another benchmark of the table, and no average."""
    known = {
        cell.benchmark.name: cell.benchmark_text
        for cell in reversed(cells)
        if cell.metric.is_accuracy and not cell.benchmark.is_mean
    }
    names = [benchmark(text).name for text in pool]
    for text, name in zip(pool, names, strict=True):
        if name not in known:
            raise ValueError(
                f"--pool must name benchmarks of the table, got {text!r}: benchmarks are "
                f"{', '.join(reversed(known.values()))}"
            )
        if names.count(name) > 1:
            raise ValueError(f"--pool must name a benchmark once, got {text!r} twice: drop one")


def _support(
    cell: Cell, parts: Sequence[Cell], reason: str, largest: dict[int, int], components: Components
) -> Support:
    difference = cell.value.points - (cell.baseline.points if cell.baseline else 0.0)
    return _judged(cell, parts, difference, cell.benchmark_text, reason, largest, components)


def _pooled(
    own: Sequence[Cell], pool: Sequence[str], largest: dict[int, int], components: Components
) -> Iterable[Support]:
    """The mean difference over the benchmarks of ``pool``, per statistic."""
    names = [benchmark(text).name for text in pool]
    for family in grouped(
        (c for c in own if c.baseline and c.metric.is_accuracy), lambda c: c.metric.family
    ).values():
        parts = [cell for cell in family if cell.benchmark.name in names]
        if sorted(cell.benchmark.name for cell in parts) != sorted(names):
            continue
        differences = [cell.value.points - cell.baseline.points for cell in parts if cell.baseline]
        mean = sum(differences) / len(differences)
        yield _judged(parts[0], parts, mean, f"mean of {', '.join(pool)}", "", largest, components)


def _judged(
    cell: Cell,
    parts: Sequence[Cell],
    difference: float,
    name: str,
    reason: str,
    largest: dict[int, int],
    components: Components,
) -> Support:
    known = {
        "source": cell.source,
        "base_model": cell.base_model,
        "arm": cell.arm,
        "benchmark": name,
        "metric": str(cell.metric),
        "line": cell.line,
        "num_seeds": cell.num_seeds,
        "is_mean": len(parts) > 1 or cell.benchmark.is_mean,
    }
    protocols = [] if reason else [_protocol(part, largest[part.line]) for part in parts]
    reason = reason or next((each for each in protocols if isinstance(each, str)), "")
    usable = tuple(each for each in protocols if isinstance(each, Protocol))
    if reason:
        return Support(**known, difference=difference, verdict=Verdict.unknown, remark=reason)  # type: ignore[arg-type]
    half = (
        100
        * float(stats.norm.ppf(0.975))
        * standard_error(usable, num_seeds=cell.num_seeds, components=components)
    )
    at_best = any(each.num_samples == inf for each in usable)
    remark = "number of samples not printed: interval as if unlimited" if at_best else ""
    verdict = _verdict(difference, half, num_seeds=cell.num_seeds, at_best=at_best)
    smallest = 100 * detectable(usable, num_seeds=cell.num_seeds, components=components)
    return Support(
        **known,  # type: ignore[arg-type]
        difference=difference,
        verdict=verdict,
        protocols=usable,
        low=difference - half,
        high=difference + half,
        detectable=smallest,
        remark=remark,
    )


def _verdict(difference: float, half: float, *, num_seeds: int, at_best: bool) -> Verdict:
    if abs(difference) <= half:
        return Verdict.inconclusive
    if at_best:
        return Verdict.unknown
    return Verdict.supported_method if num_seeds >= _METHOD_RUNS else Verdict.supported


def _protocol(cell: Cell, largest: int) -> Protocol | str:
    """Questions and samples of a number, or why its spread is unknown.

    pass@k of an arm with samples for no larger k is one yes or no per question: as one sample.
    """
    if cell.benchmark.size is None:
        return f"size of {cell.benchmark_text} unknown"
    metric = cell.metric
    if metric.statistic is Statistic.avg:
        return Protocol(num_questions=cell.benchmark.size, num_samples=metric.num_samples or inf)
    if metric.statistic is not Statistic.pass_at or metric.k is None:
        return f"no variance components for {metric}"
    return Protocol(num_questions=cell.benchmark.size, num_samples=max(1, largest // metric.k))
