"""Comparisons that nobody ran: any number of arms, benchmarks and questions, drawn with a fixed seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tokensweep_analysis.claims import POOLED, Claim, ClaimKind, Judgement, Verdict
from tokensweep_analysis.contrasts import Contrast
from tokensweep_analysis.intervals import Estimand, Estimate
from tokensweep_analysis.metrics import Kind, Metric, metrics_of
from tokensweep_analysis.page.curves import Curve
from tokensweep_analysis.tables import Comparison, Row, Trouble

MEAN = Metric(Kind.pass_at, 1)


def an_estimate(value: float, half: float = 0.04, **changes: Any) -> Estimate:
    """An estimate with the interval ``value +- half``."""
    known: dict[str, Any] = {
        "value": value,
        "low": value - half,
        "high": value + half,
        "standard_error": half / 2,
        "df": 8.4,
        "estimand": Estimand.E4,
        "num_runs": 3,
        "num_questions": 30,
        "confidence": 0.95,
    }
    return Estimate(**{**known, **changes})


def a_row(arm: str, benchmark: str = "aime25", **changes: Any) -> Row:
    """A row of setting ``qwen`` with seeds 0, 1, 2; what it holds comes from ``changes``."""
    known: dict[str, Any] = {
        "setting": "qwen",
        "arm": arm,
        "benchmark": benchmark,
        "seeds": (0, 1, 2),
        "num_planned": 3,
        "num_failed": 0,
        "num_questions": 30,
        "num_samples": 64,
        "truncated_fraction": 0.02,
        "no_answer_fraction": 0.01,
        "error_fraction": 0.0,
        "length_mean": 2048.0,
        "kept_fraction": 0.2,
        "entropy_kept_fraction": 0.8,
        "generated_tokens": 1.2e7,
        "seconds": 7300.0,
        "device_hours": 16.2,
        "asked": tuple(changes.get("results", ())),
    }
    return Row(**{**known, **changes})


def a_contrast(arm: str, **changes: Any) -> Contrast:
    """An arm minus ``all`` on aime25: +2.0 points, interval -1.0 to +5.0."""
    known: dict[str, Any] = {
        "setting": "qwen",
        "benchmark": "aime25",
        "arm": arm,
        "baseline": "all",
        "metric": MEAN,
        "estimate": an_estimate(0.02, 0.03),
        "p_value": 0.1785,
        "p_holm": 0.3571,
        "detectable": 0.0432,
    }
    return Contrast(**{**known, **changes})


def a_judgement(verdict: Verdict, **changes: Any) -> Judgement:
    """A judgement on "top20 beats all"."""
    claim = Claim(
        id=f"is_{verdict.name}",
        kind=ClaimKind.superiority,
        left="top20",
        right="all",
        benchmark=POOLED,
        metric=MEAN,
        claimed=0.0771,
        source="Table 2",
    )
    known: dict[str, Any] = {
        "claim": claim,
        "setting": "qwen",
        "verdict": verdict,
        "rule": "lower end of the 95 % interval above 0",
        "reason": "the interval reaches from -1.0 to +5.0",
        "estimate": an_estimate(0.02, 0.03),
        "p_value": 0.0004,
        "p_holm": 0.0123,
        "detectable": 0.0432,
        "smallest_effect": 0.0193,
        "p_above_0": 0.912,
        "p_above_smallest": 0.431,
    }
    return Judgement(**{**known, **changes})


def a_comparison(rows: Sequence[Row] = (), **changes: Any) -> Comparison:
    """A comparison with baseline ``all``."""
    known: dict[str, Any] = {
        "name": "demo-tiny",
        "scale": "tiny",
        "paper": "arXiv:2506.01939",
        "question": "Do few tokens carry the signal?",
        "note": "Scale tiny tests the machinery.",
        "baseline": "all",
        "code": ("c0ffee123456",),
        "confidence": 0.95,
        "rows": tuple(rows),
        "troubles": (),
    }
    return Comparison(**{**known, **changes})


def simulated(
    *, num_arms: int, benchmarks: Sequence[str], num_questions: int, num_samples: int, **changes: Any
) -> Comparison:
    """A sweep of setting ``qwen``: rows, pooled ones too, contrasts, every verdict, a failed run."""
    rng = np.random.default_rng(7)
    arms = ["all", "top20", "bottom80", *(f"arm{place:03d}" for place in range(3, num_arms))][:num_arms]
    ks = [2**power for power in range(num_samples.bit_length())]
    metrics = metrics_of(ks, [0.5, 0.9])
    rows, contrasts = [], []
    for benchmark in (*benchmarks, POOLED):
        hard = rng.beta(0.7, 0.9, num_questions)
        for place, arm in enumerate(arms):
            gain = float(rng.normal(0, 0.03)) if place else 0.0
            share = np.clip(hard + gain + rng.normal(0, 0.05, num_questions), 0, 1)
            every_k = [Metric(Kind.pass_at, k) for k in range(1, num_samples + 1)]
            results = {m: an_estimate(_of(m, share), 0.05) for m in dict.fromkeys([*metrics, *every_k])}
            differences = {m: an_estimate(gain, 0.03) for m in metrics} if place else {}
            rows.append(
                a_row(
                    arm,
                    benchmark,
                    num_questions=num_questions,
                    num_samples=num_samples,
                    asked=tuple(metrics),
                    results=results,
                    differences=differences,
                    by_question={}
                    if benchmark == POOLED
                    else {f"{benchmark}/{q:03d}": float(share[q]) for q in range(num_questions)},
                    band={
                        m: (results[m].low - 0.02, results[m].high + 0.02)
                        for m in metrics
                        if m.kind is Kind.pass_at
                    },
                    difference_curve={
                        m: an_estimate(gain, 0.05) for m in metrics if place and m.kind is Kind.pass_at
                    },
                    length_mean=2000.0 + 40 * place,
                )
            )
            contrasts += [
                a_contrast(arm, benchmark=benchmark, metric=m, estimate=each)
                for m, each in differences.items()
            ]
    return a_comparison(
        rows,
        **{
            "contrasts": tuple(contrasts),
            "judgements": tuple(a_judgement(verdict) for verdict in Verdict),
            "troubles": (a_trouble(),),
            **changes,
        },
    )


def _of(metric: Metric, share: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """A metric of questions with known accuracies."""
    if metric.kind is Kind.cover_at:
        return float((share >= metric.at).mean())
    if metric.kind is Kind.pass_at:
        return float((1 - (1 - share) ** metric.at).mean())
    return float((share**metric.at if metric.kind is Kind.pass_hat else share > 0.5).mean())


def a_trouble(**changes: Any) -> Trouble:
    """A run that failed."""
    known: dict[str, Any] = {
        "setting": "qwen",
        "arm": "top20",
        "seed": 3,
        "run_id": "0a1b2c3d",
        "state": "failed",
        "error": "loss is NaN at step 3\nsecond line",
    }
    return Trouble(**{**known, **changes})


def made_curves(arms: Sequence[str], *, num_points: int = 120) -> list[Curve]:
    """Rewards and entropies of three seeds."""
    rng = np.random.default_rng(3)
    curves = []
    for arm in arms:
        for metric in ("reward", "entropy/mean", "length/mean", "loss/kept_fraction"):
            mean = 0.5 + np.cumsum(rng.normal(0, 0.01, num_points))
            curves.append(
                Curve(
                    setting="qwen",
                    arm=arm,
                    metric=metric,
                    seeds=(0, 1, 2),
                    steps=tuple(float(step) for step in range(1, num_points + 1)),
                    mean=tuple(mean.tolist()),
                    low=tuple((mean - 0.05).tolist()),
                    high=tuple((mean + 0.05).tolist()),
                    num_runs=(3,) * num_points,
                )
            )
    return curves
