"""How small a difference a comparison can find, before and after it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from tokensweep_analysis.crossed import Scores, Tables, as_list, difference_design


def detectable_difference(
    standard_error: ArrayLike, df: ArrayLike, *, alpha: float = 0.05, power: float = 0.8
) -> Scores:
    """The smallest true difference that a two-sided t test finds with probability ``power``, in its sign.

    The noncentrality at which ``P(T > t_(1 - alpha/2)) = power``, times the standard error; being
    significant with the wrong sign does not count as finding it. Arguments broadcast; NaN stays NaN.
    Raises ValueError unless ``alpha / 2 < power < 1``.
    """
    if not 0 < alpha / 2 < power < 1:
        raise ValueError(f"needs alpha / 2 < power < 1, got alpha {alpha} and power {power}")
    error, freedom = np.asarray(standard_error, dtype=np.float64), np.asarray(df, dtype=np.float64)
    threshold = special.stdtrit(freedom, 1 - alpha / 2)
    return np.asarray(special.nctdtrinc(freedom, 1 - power, threshold) * error)


@dataclass(frozen=True, kw_only=True)
class Components:
    """What makes the difference of two arms vary, all on the scale of scores, so 0.01 is one point.

    ``Var = omega^2/Q + 2 sigma_seed^2/S + 2 sigma_seed_question^2/(Q S) + 2 within/(Q S n)`` for S runs per
    arm on Q questions with n samples each. Where arms share their seeds, the two sigmas are those of the run
    differences over the square root of 2.
    """

    omega: float  # SD over questions of the true difference (question x arm)
    sigma_seed: float  # SD over training seeds of the mean over questions
    sigma_seed_question: float  # SD of what a seed does to single questions
    # Variance of one sample, mean of p (1 - p) over questions. Of another metric than the average: n times
    # the sampling variance of a question's number, which depends on n.
    within: float


# Evaluation notes of this project, November 2026. `within` is measured on AIME24 (0.105 and 0.108 from 128
# samples per question of two 1.5 B models). The seed figures give an SD of 1.8 points for avg@32 on AIME24,
# where published runs show 1.6 to 2.1. `omega` of two variants of one base model was found nowhere: assumed.
CENTRAL = Components(omega=0.10, sigma_seed=0.011, sigma_seed_question=0.056, within=0.105)
OPTIMISTIC = Components(omega=0.05, sigma_seed=0.005, sigma_seed_question=0.030, within=0.105)
PESSIMISTIC = Components(omega=0.15, sigma_seed=0.022, sigma_seed_question=0.056, within=0.105)


def design_detectable(
    components: Components,
    *,
    questions: int | Sequence[int],
    seeds: int,
    samples: int,
    paired_seeds: bool,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """The smallest difference that a planned comparison finds, with the degrees of freedom to be expected.

    Of the methods on questions like these (E4) with several seeds, of two checkpoints (E2) with one; over
    several benchmarks for their mean. Components hold on every benchmark, and a seed moves all benchmarks
    alike. Degrees of freedom are those of :func:`intervals.difference_estimate` at the expected variances.
    Raises ValueError for counts below one, or for fewer than two questions in a benchmark.
    """
    sizes = [questions] if isinstance(questions, int) else list(questions)
    if not sizes or min(sizes) < 2 or min(seeds, samples) < 1:
        raise ValueError(
            f"a comparison needs two questions per benchmark, a seed and a sample, got {sizes} questions, "
            f"{seeds} seeds and {samples} samples"
        )
    shares = np.array(
        [1 / (size * len(sizes) ** 2) for size in sizes]
    )  # of one unit of variance per question
    cell = components.sigma_seed_question**2 + components.within / samples
    v_q = shares * (components.omega**2 + 2 * cell / seeds)
    dfs = np.array(sizes) - 1.0
    least = dfs.min()
    if seeds == 1:
        variance, squares = v_q.sum(), (v_q**2 / dfs).sum()
    else:
        arms = 1 if paired_seeds else 2
        least = min(least, seeds - 1)
        v_r = shares * 2 * cell / seeds
        v_s = 2 * components.sigma_seed**2 / seeds + v_r.sum()
        variance = v_q.sum() + v_s - v_r.sum()
        squares = (v_q**2 / dfs).sum() + v_s**2 / (arms * (seeds - 1))
        squares += (v_r**2 / (arms * (seeds - 1) * dfs)).sum()
    df = max(variance**2 / squares, least)
    return float(detectable_difference(np.sqrt(variance), df, alpha=alpha, power=power))


def components_of(
    tables: Tables,
    baseline: Tables,
    *,
    seeds: Sequence[int],
    baseline_seeds: Sequence[int],
    samples: int | None,
) -> Components:
    """Components by the method of moments from finished runs, to plan the next ones with.

    Tables have mean accuracies (pass@1) of ``samples`` samples per cell, because ``within`` is their
    ``n / (n - 1) p (1 - p)``; or numbers of another metric and ``samples`` None: what sampling adds to them
    is not told apart, but part of ``sigma_seed_question``, and holds for as many samples only. The variances
    of the two-way interval are set to what is expected of them; negative solutions become 0. Raises
    ValueError for one run, one question or one sample, which do not tell the components apart, and for tables
    that do not fit.
    """
    design = difference_design(tables, baseline, seeds=seeds, baseline_seeds=baseline_seeds)
    if not design.both or (samples is not None and samples < 2):
        raise ValueError(
            f"components need two runs per arm, two questions per benchmark and two samples, got "
            f"{design.num_runs} runs, {design.questions_per_benchmark} questions and {samples} samples: "
            "plan with CENTRAL instead"
        )
    v_q, v_s, v_r = (
        float(sum(source.variance[0] for source in sources))
        for sources in (design.questions, design.runs, design.both)
    )
    sizes = design.questions_per_benchmark
    share = sum(1 / size for size in sizes) / len(sizes) ** 2
    per_run = 1 / len(seeds) + 1 / len(baseline_seeds)  # 2 / S for arms of the same size
    within = 0.0
    if samples is not None:
        within = float(np.mean([_within(arm) for arm in (tables, baseline)])) * samples / (samples - 1)
    return Components(
        omega=_root((v_q - v_r) / share),
        sigma_seed=_root((v_s - v_r) / per_run),
        sigma_seed_question=_root(v_r / share / per_run - within / (samples or 1)),
        within=within,
    )


def _within(tables: Tables) -> float:
    """Mean of p (1 - p), benchmarks weighing as their questions do in the variance of the mean."""
    strata = as_list(tables)
    weights = [1 / table.shape[1] for table in strata]
    return float(np.average([(table * (1 - table)).mean() for table in strata], weights=weights))


def _root(variance: float) -> float:
    return float(np.sqrt(max(variance, 0.0)))


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The smallest difference that a plan finds, and the same with more of one thing."""

    detectable: float
    two_more_seeds: float
    twice_the_questions: float
    twice_the_samples: float | None  # None where it is not known what samples add

    @property
    def best(self) -> str:
        """What helps most: seeds, questions or samples."""
        options = {
            "seeds": self.two_more_seeds,
            "questions": self.twice_the_questions,
        }
        if self.twice_the_samples is not None:
            options["samples"] = self.twice_the_samples
        return min(options, key=lambda name: options[name])


def advise(
    components: Components,
    *,
    twice_sampled: Components | None,
    questions: int | Sequence[int],
    seeds: int,
    samples: int,
    paired_seeds: bool,
    alpha: float = 0.05,
    power: float = 0.8,
) -> Advice:
    """What a plan finds as it is, with two more seeds, with twice the questions, with twice the samples.

    ``twice_sampled`` are the components with twice the samples, the same ones for averages; None where they
    are not known. Costs are not weighed: a seed is a training run, questions and samples are not. With one
    seed per arm "as it is" is about two checkpoints and "two more seeds" about the method, so it may be the
    larger number.
    """
    sizes = [questions] if isinstance(questions, int) else list(questions)

    def with_more(
        known: Components = components,
        *,
        seeds: int = seeds,
        sizes: Sequence[int] = sizes,
        samples: int = samples,
    ) -> float:
        return design_detectable(
            known,
            questions=sizes,
            seeds=seeds,
            samples=samples,
            paired_seeds=paired_seeds,
            alpha=alpha,
            power=power,
        )

    return Advice(
        detectable=with_more(),
        two_more_seeds=with_more(seeds=seeds + 2),
        twice_the_questions=with_more(sizes=[2 * size for size in sizes]),
        twice_the_samples=with_more(twice_sampled, samples=2 * samples) if twice_sampled else None,
    )
