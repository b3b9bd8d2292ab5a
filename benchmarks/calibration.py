"""How often intervals of a difference are wrong, and whether they find what they say they find.

    python -m benchmarks.calibration [--replicates N] [--keep]

Two methods that are equal on questions and seeds like these are compared many times over. Scores are drawn as
evaluations give them: 32 samples per cell, questions from hopeless to trivial, an arm that suits some of
them better, runs that differ by their seed, in the mean and on single questions. An interval of 95 % may
find a difference in 5 % of the comparisons. ``--keep`` puts the table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path

import numpy as np
from scipy import optimize, special

from benchmarks.tables import README, insert_tables
from tokensweep_analysis.intervals import Estimate, Scores, difference_estimates

_ALPHA = 0.05
_BATCH = 500  # replicates drawn at once: 30 MB for the largest size


@dataclass(frozen=True, kw_only=True)
class Population:
    """Effects on the logit scale. The defaults are the central scenario of :mod:`power`.

    On the scale of scores they give omega 0.10, a seed SD of 1.1 points, a seed x question SD of 0.055 and
    a sampling variance of 0.105.
    """

    mean: float = -0.4
    question: float = 3.2  # SD of difficulty
    arm_question: float = 0.53  # SD per arm of what suits it
    seed: float = 0.1  # SD of a run's mean
    seed_question: float = 0.4  # SD of a run on single questions
    shared: float = 0.5  # share of both seed variances that two runs of the same seed have in common
    samples: int = 32  # per cell

    def mean_difference(self, shift: float) -> float:
        """Difference of the two methods' mean scores when their logits differ by ``shift``."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        sd = sqrt(self.question**2 + self.arm_question**2 + self.seed**2 + self.seed_question**2)
        left, right = (special.expit(self.mean + sign * shift / 2 + sd * nodes) for sign in (1, -1))
        return float((weights * (left - right)).sum() / weights.sum())

    def shift_of(self, difference: float) -> float:
        """The logit shift that makes mean scores differ by ``difference``."""
        return float(optimize.brentq(lambda shift: self.mean_difference(shift) - difference, 0, 20))


@dataclass(frozen=True, kw_only=True)
class Size:
    """A comparison: questions of each benchmark, runs per arm, and whether arms have the same seeds."""

    questions: tuple[int, ...]
    seeds: int
    paired: bool

    def __str__(self) -> str:
        return " + ".join(f"{each} x {size}" for size, each in Counter(self.questions).items())

    @property
    def baseline_seeds(self) -> range:
        """Seeds of the second arm; the first has those from 0 on."""
        return range(self.seeds) if self.paired else range(self.seeds, 2 * self.seeds)


Arm = list[Scores]  # [S, Q, R] per benchmark, a replicate per place on the last axis

SIZES = tuple(
    Size(questions=questions, seeds=seeds, paired=paired)
    for questions in ((30,), (120,), (30,) * 5)
    for seeds in (1, 2, 3, 5)
    for paired in ((False,) if seeds == 1 else (False, True))
)


def draw(
    generator: np.random.Generator,
    size: Size,
    *,
    replicates: int,
    population: Population | None = None,
    shift: float = 0.0,
) -> tuple[Arm, Arm]:
    """Scores of two arms whose logits differ by ``shift``."""
    known = population or Population()
    apart = 1 - known.shared if size.paired else 1.0

    def effects(*shape: int, sd: float) -> Iterator[Scores]:
        """An effect of each arm, of which they share what runs of the same seed share."""
        common = generator.normal(0, sd * sqrt(1 - apart), (*shape, replicates))
        return (common + generator.normal(0, sd * sqrt(apart), (*shape, replicates)) for _ in range(2))

    arms: tuple[Arm, Arm] = ([], [])
    seeds = list(effects(size.seeds, 1, sd=known.seed))
    for questions in size.questions:
        difficulty = generator.normal(known.mean, known.question, (questions, replicates))
        cells = effects(size.seeds, questions, sd=known.seed_question)
        for arm, sign, seed, cell in zip(arms, (1, -1), seeds, cells, strict=True):
            own = generator.normal(0, known.arm_question, (questions, replicates))
            p = special.expit(difficulty + own + sign * shift / 2 + seed + cell)
            arm.append(generator.binomial(known.samples, p) / known.samples)
    return arms


def simulate(
    size: Size,
    *,
    replicates: int,
    seed: int = 0,
    population: Population | None = None,
    shift: float = 0.0,
) -> Iterator[tuple[Arm, Arm]]:
    """Batches of :func:`draw`, the same for the same seed."""
    generator = np.random.default_rng(seed)
    for start in range(0, replicates, _BATCH):
        count = min(_BATCH, replicates - start)
        yield draw(generator, size, replicates=count, population=population, shift=shift)


def shipped(left: Arm, right: Arm, size: Size) -> list[Estimate]:
    """What ``tokensweep report`` prints."""
    return difference_estimates(
        left, right, seeds=range(size.seeds), baseline_seeds=size.baseline_seeds, confidence=1 - _ALPHA
    )


def naive(left: Arm, right: Arm, *, samples: int) -> Scores:
    """p [R] of the pooled binomial: every sample counts as if it were a question of its own."""
    variance = np.zeros(left[0].shape[2])
    for table in (*left, *right):
        p = table.mean(axis=(0, 1))
        variance += p * (1 - p) / (table.shape[0] * table.shape[1] * samples) / len(left) ** 2
    return _t_test(left, right, variance, df=np.inf)


def by_question(left: Arm, right: Arm) -> Scores:
    """p [R] of the paired t test over questions, runs averaged: seeds count as fixed."""
    differences = [a.mean(axis=0) - b.mean(axis=0) for a, b in zip(left, right, strict=True)]
    variance = sum(d.var(axis=0, ddof=1) / len(d) for d in differences) / len(left) ** 2
    return _t_test(left, right, variance, df=sum(len(d) - 1 for d in differences))


def by_seed(left: Arm, right: Arm) -> Scores:
    """p [R] of the unpaired t test over each run's mean: questions count as fixed."""
    means = (np.mean([table.mean(axis=1) for table in arm], axis=0) for arm in (left, right))
    variance = sum(each.var(axis=0, ddof=1) / len(each) for each in means)
    return _t_test(left, right, variance, df=2 * (len(left[0]) - 1))


def _t_test(left: Arm, right: Arm, variance: Scores, *, df: float) -> Scores:
    pairs = zip(left, right, strict=True)
    difference = np.mean([(a - b).mean(axis=(0, 1)) for a, b in pairs], axis=0)
    error = np.sqrt(np.maximum(variance, np.finfo(np.float64).tiny))  # two runs may have equal means
    return np.asarray(2 * special.stdtr(df, -np.abs(difference) / error))


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """Shares of the replicates in which a difference was found, and the smallest one said to be found."""

    size: Size
    naive: float
    by_question: float
    by_seed: float  # NaN for one run
    shipped: float
    detectable: float  # mean over the replicates
    power: float  # of the shipped interval, when that is the true difference


def calibrate(size: Size, *, replicates: int, population: Population | None = None) -> Calibrated:
    """All estimators on the same draws, then the shipped one where there is a difference to be found."""
    known = population or Population()
    run = partial(simulate, size, replicates=replicates, population=known)
    p: dict[str, list[float]] = {"naive": [], "by_question": [], "by_seed": [], "shipped": []}
    detectable: list[float] = []
    for left, right in run():
        estimates = shipped(left, right, size)
        p["naive"].extend(naive(left, right, samples=known.samples))
        p["by_question"].extend(by_question(left, right))
        p["by_seed"].extend(by_seed(left, right) if size.seeds > 1 else [np.nan] * len(estimates))
        p["shipped"].extend(each.p_value() for each in estimates)
        detectable.extend(each.detectable(alpha=_ALPHA) for each in estimates)
    expected = float(np.mean(detectable))
    shifted = run(seed=1, shift=known.shift_of(expected))
    found = [each.p_value() < _ALPHA and each.value > 0 for arms in shifted for each in shipped(*arms, size)]
    rates = {
        name: float("nan") if np.isnan(every).any() else float(np.mean(np.array(every) < _ALPHA))
        for name, every in p.items()
    }
    return Calibrated(size=size, detectable=expected, power=float(np.mean(found)), **rates)


def to_markdown(rows: Sequence[Calibrated], *, replicates: int) -> str:
    """The table, with what its numbers are."""
    error = 100 * sqrt(_ALPHA * (1 - _ALPHA) / replicates)
    lines = [
        "| questions | runs per arm | seeds | pooled binomial | paired by question | t over runs | shipped | "
        "detectable | power there |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [
            str(row.size),
            str(row.size.seeds),
            "paired" if row.size.paired else "other",
            *(_percent(each) for each in (row.naive, row.by_question, row.by_seed)),
            f"**{_percent(row.shipped)}**",
            f"{100 * row.detectable:.1f}",
            f"{100 * row.power:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            "Comparisons in 100 that find a difference where there is none, at a nominal 5; then the mean of "
            "the smallest detectable difference that the shipped interval prints, in points, and in how many "
            f"of 100 comparisons it finds a difference of that size. {replicates:,} replicates per row: "
            f"false positives are good to ± {error:.1f} (one standard error at 5), power to ± "
            f"{100 * sqrt(0.16 / replicates):.1f}. Simulated scores, not evaluations.\n",
            *lines,
            "",
        ]
    )


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibration",
        description="False positive rates and power of intervals of a difference, by simulation.",
    )
    parser.add_argument("--replicates", type=int, default=3000, help="per row; default: 3000, ten seconds")
    parser.add_argument("--keep", action="store_true", help=f"put the table into {README.name}")
    parser.add_argument("--readme", type=Path, default=README, help="default: of this folder")
    options = parser.parse_args(arguments)
    if options.replicates < 1:
        parser.error(f"--replicates must be at least 1, got {options.replicates}")
    rows = [calibrate(size, replicates=options.replicates) for size in SIZES]
    table = to_markdown(rows, replicates=options.replicates)
    print(table)
    if options.keep:
        insert_tables(options.readme, {"calibration": table}, block="calibration")


if __name__ == "__main__":
    main()
