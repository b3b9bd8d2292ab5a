"""Main effects and interactions of a factorial sweep. For the report and the page.

Every arm takes part in every effect: with factors coded -1 (off) and +1 (on), an effect is the mean score of
the arms whose product of codes is +1 minus that of the others. For one factor that is its mean effect over
all settings of the others; for two it is half of how much the one's effect grows when the other is on.
Source: Box, Hunter and Hunter, Statistics for Experimenters, on two-level factorial designs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from tokensweep.factorial import NONE
from tokensweep_analysis.arms import Arm, Cell, mismatch
from tokensweep_analysis.contrasts import Contrast, adjusted, contrasts_of
from tokensweep_analysis.intervals import Scores, difference_estimates
from tokensweep_analysis.metrics import Metric

MAIN = "main effects"  # each family is adjusted by itself
INTERACTIONS = "interactions"
TIMES = " x "
WHAT_THEY_ARE = (
    "Main effects and interactions compare all arms of the design at once. A main effect is what a factor "
    "changes on average over the settings of the other factors. An interaction is half of how much the "
    "effect of one factor grows when the other is on: 0 where their effects add up. Both are means over half "
    "of the arms minus the mean over the other half, paired by question and seed; Holm p is over the main "
    "effects, and over the interactions."
)
_HALF = (
    "Half of the combinations was run: what is read as an effect of one or two factors is that together with "
    "the interaction of all the other factors, which is taken for 0."
)


def effects_of(
    cells: Mapping[Cell, Arm],
    factors: Mapping[str, Sequence[str]],
    *,
    metrics: Sequence[Metric],
    confidence: float = 0.95,
) -> list[Contrast]:
    """A contrast per setting, benchmark, effect and metric; ``arm`` names the effect, ``baseline`` its kind.

    ``factors`` has the arms with each factor on. A place where an arm of the design has no run of a seed that
    the others have, or evaluations that don't fit, has effects of the seeds that all have, or none.
    """
    found = [
        effect
        for place in dict.fromkeys((setting, benchmark) for setting, _, benchmark in cells)
        for effect in _effects_at(place, cells, factors, metrics, confidence)
    ]
    return adjusted(found)


def what_they_are(factors: Mapping[str, Sequence[str]], num_arms: int) -> str:
    """How to read the effects of a design with so many arms."""
    return f"{WHAT_THEY_ARE} {_HALF}" if num_arms < 2 ** len(factors) else WHAT_THEY_ARE


def lacking(cells: Mapping[Cell, Arm], factors: Mapping[str, Sequence[str]]) -> str:
    """Why a place has no effects; empty where every one has."""
    gaps = [
        f"{' '.join(filter(None, (setting, benchmark)))}: {reason}"
        for setting, benchmark in dict.fromkeys((setting, benchmark) for setting, _, benchmark in cells)
        if (reason := _obstacle(_at((setting, benchmark), cells), factors))
    ]
    return f"No effects for {'; '.join(gaps)}." if gaps and factors else ""


def _effects_at(
    place: tuple[str, str],
    cells: Mapping[Cell, Arm],
    factors: Mapping[str, Sequence[str]],
    metrics: Sequence[Metric],
    confidence: float,
) -> Iterator[Contrast]:
    setting, benchmark = place
    arms = _at(place, cells)
    shared = [m for m in metrics if all(m in own.metrics() for own in arms.values())]
    if _obstacle(arms, factors) or not shared:
        return
    seeds = _seeds(arms)
    tables = {arm: _of_seeds(own, seeds, shared) for arm, own in arms.items()}
    signs = {factor: {arm: 1 if arm in on else -1 for arm in arms} for factor, on in factors.items()}
    for names in (*((each,) for each in factors), *combinations(factors, 2)):
        product = {arm: int(np.prod([signs[name][arm] for name in names])) for arm in arms}
        estimates = difference_estimates(
            _mean([tables[arm] for arm in arms if product[arm] > 0]),
            _mean([tables[arm] for arm in arms if product[arm] < 0]),
            seeds=seeds,
            baseline_seeds=seeds,
            confidence=confidence,
            limits=[metric.difference_limits for metric in shared],
        )
        yield from contrasts_of(
            setting=setting,
            benchmark=benchmark,
            arm=TIMES.join(names),
            baseline=MAIN if len(names) == 1 else INTERACTIONS,
            estimates=dict(zip(shared, estimates, strict=True)),
        )


def _at(place: tuple[str, str], cells: Mapping[Cell, Arm]) -> dict[str, Arm]:
    """The arms of a setting on a benchmark."""
    return {arm: own for (setting, arm, benchmark), own in cells.items() if (setting, benchmark) == place}


def _obstacle(arms: Mapping[str, Arm], factors: Mapping[str, Sequence[str]]) -> str:
    """Why the arms of a place have no effects."""
    design = dict.fromkeys([NONE, *(arm for on in factors.values() for arm in on)])
    if absent := [arm for arm in design if arm not in arms]:
        return f"{', '.join(absent)} of the design {'is' if len(absent) == 1 else 'are'} not planned there"
    if empty := [arm for arm, own in arms.items() if not own.runs]:
        return f"no run of {', '.join(empty)} has finished"
    if not _seeds(arms):
        return "the arms share no seed"
    per_benchmark = zip(*(own.scored for own in arms.values()), strict=True)
    return next(filter(None, (mismatch([e for own in each for e in own]) for each in per_benchmark)), "")


def _seeds(arms: Mapping[str, Arm]) -> list[int]:
    """Those that every arm has."""
    return sorted(set.intersection(*(set(own.seeds) for own in arms.values())))


def _of_seeds(own: Arm, seeds: Sequence[int], metrics: Sequence[Metric]) -> list[Scores]:
    """Scores per benchmark of the runs with these seeds, [S, Q, M]."""
    rows = [own.seeds.index(seed) for seed in seeds]
    return [table[rows] for table in own.tables(metrics)]


def _mean(arms: Sequence[Sequence[Scores]]) -> list[Scores]:
    """The mean over arms, per benchmark."""
    return [np.mean(tables, axis=0) for tables in zip(*arms, strict=True)]
