"""A comparison as flat tables, for files that other programs read; shares are between 0 and 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import pandas as pd

from tokensweep_analysis.claims import Judgement
from tokensweep_analysis.intervals import Estimate
from tokensweep_analysis.metrics import Kind
from tokensweep_analysis.passk import guess_floor
from tokensweep_analysis.tables import COSTS, RATES, Comparison, Row


def ranking_frame(comparison: Comparison) -> pd.DataFrame:
    """Every result with its interval, rates and costs: a line per setting, benchmark, arm and metric."""
    records = [record for row in comparison.rows for record in _results(row)]
    columns = ("setting", "benchmark", "arm", "metric", "value", *_INTERVAL, *_COUNTS)
    return pd.DataFrame.from_records(records, columns=list(columns))


def contrast_frame(comparison: Comparison) -> pd.DataFrame:
    """Every difference to the baseline: a line per setting, benchmark, arm and metric.

    Below them the effects of a factorial sweep, with their kind in place of the baseline.
    """
    records = [
        {
            "setting": each.setting,
            "benchmark": each.benchmark,
            "arm": each.arm,
            "baseline": each.baseline,
            "metric": each.metric.key,
            "difference": each.estimate.value,
            **_interval(each.estimate),
            "runs": each.estimate.num_runs,
            "questions": each.estimate.num_questions,
            "p": each.p_value,
            "p_holm": each.p_holm,
            "detectable": each.detectable,
            "remark": each.remark,
        }
        for each in (*comparison.contrasts, *comparison.effects)
    ]
    names = (
        "setting",
        "benchmark",
        "arm",
        "baseline",
        "metric",
        "difference",
        *_INTERVAL,
        "runs",
        "questions",
    )
    return pd.DataFrame(records, columns=[*names, "p", "p_holm", "detectable", "remark"])


def claim_frame(comparison: Comparison) -> pd.DataFrame:
    """Every judgement: a line per claim and setting."""
    return pd.DataFrame([_judgement(each) for each in comparison.judgements], columns=list(_CLAIM))


_INTERVAL = ("low", "high", "standard_error", "df", "estimand")
_with_interval = attrgetter("value", *_INTERVAL)
_COUNTS = ("runs", "planned", "failed", "questions", "samples", "seeds")


def _results(row: Row) -> list[tuple[Any, ...]]:
    where = (row.setting, row.benchmark, row.arm)
    counts = (
        len(row.seeds),
        row.num_planned,
        row.num_failed,
        row.num_questions,
        row.num_samples,
        " ".join(map(str, row.seeds)),
    )
    lines = [(*where, metric.key, *_with_interval(each), *counts) for metric, each in row.results.items()]
    others = [(name, getattr(row, name)) for name in (*RATES, *COSTS)]
    if row.answer_space:
        ks = sorted({int(metric.at) for metric in row.asked if metric.kind is Kind.pass_at})
        others += [(f"guess_floor_at_{k}", guess_floor(row.answer_space, k)) for k in ks]
    unknown = (None,) * len(_INTERVAL)
    lines += [(*where, name, value, *unknown, *counts) for name, value in others if value is not None]
    return lines


def _interval(estimate: Estimate) -> dict[str, Any]:
    return {name: getattr(estimate, name) for name in _INTERVAL}


def _of_claim(name: str) -> Callable[[Judgement], Any]:
    return lambda each: getattr(each.claim, name)


def _of_judgement(name: str) -> Callable[[Judgement], Any]:
    return lambda each: getattr(each, name)


def _of_estimate(name: str, which: str = "estimate") -> Callable[[Judgement], Any]:
    return lambda each: getattr(getattr(each, which), name, None)


_ENDS = {"low": "low", "high": "high", "level": "confidence"}  # columns, and what an estimate calls them
_CLAIM: Mapping[str, Callable[[Judgement], Any]] = {
    "id": _of_claim("id"),
    **{name: _of_judgement(name) for name in ("setting", "verdict", "grade")},
    "kind": _of_claim("kind"),
    "contrast": _of_claim("contrast"),
    "metric": _of_claim("measure"),
    "difference": _of_estimate("value"),
    **{column: _of_estimate(name) for column, name in _ENDS.items()},
    **{
        f"{column}_{role}": _of_estimate(name, role)
        for role in ("reproduce", "refute")
        for column, name in _ENDS.items()
    },
    "holm_over": _of_judgement("holm_over"),
    "p": _of_judgement("p_value"),
    **{name: _of_judgement(name) for name in ("p_holm", "detectable")},
    **{name: _of_claim(name) for name in ("claimed", "margin")},
    **{name: _of_judgement(name) for name in ("smallest_effect", "p_above_0", "p_above_smallest")},
    **{name: _of_judgement(name) for name in ("rule", "reason")},
    "source": _of_claim("source"),
    "own": lambda each: not each.claim.model,
    **{name: _of_claim(name) for name in ("model", "data")},
}


def _judgement(each: Judgement) -> dict[str, Any]:
    return {column: of(each) for column, of in _CLAIM.items()}
