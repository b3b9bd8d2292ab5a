"""TPE and successive halving find more than random search on a known function, at the same cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from tests.search.studies import STEPS, everybody_lives, run, search_of, space_of, study_of

from tokensweep.search.space import Value
from tokensweep.search.spec import Pruner, Sampler

SEEDS = range(5)
SPACE = space_of("x=interval(0,1)", "y=interval(0,1)", "lr=tag(log,interval(1e-5,1e-1))")


def peak(params: Mapping[str, Value]) -> float:
    """Highest, 1, at x = 0.3, y = 0.7, lr = 1e-3; half of that at a distance of 0.35."""
    x, y, lr = (float(params[key] or 0.0) for key in ("x", "y", "lr"))
    squared = (x - 0.3) ** 2 + (y - 0.7) ** 2 + ((math.log10(lr) + 3) / 4) ** 2
    return math.exp(-squared * math.log(2) / 0.35**2)


def best(folder: Path, *, sampler: Sampler, seed: int) -> float:
    search = search_of(SPACE, trials=40, sampler=sampler, sampler_seed=seed)
    return max(run(study_of(folder, search), peak))


def test_tpe_finds_more_than_random_search_with_as_many_trials(tmp_path: Path) -> None:
    found = {
        sampler: [best(tmp_path / f"{sampler}-{seed}", sampler=sampler, seed=seed) for seed in SEEDS]
        for sampler in (Sampler.random, Sampler.tpe)
    }
    missed = {sampler: 1 - fmean(values) for sampler, values in found.items()}
    assert missed[Sampler.tpe] < missed[Sampler.random] / 2  # margin: half of what random search misses


def within(folder: Path, *, pruner: Pruner, seed: int, budget: int) -> tuple[float, int]:
    """The best final value, and how many trials, of random search with so many training steps in all."""
    search = search_of(
        SPACE, trials=10_000, sampler=Sampler.random, sampler_seed=seed, pruner=pruner, rung=1, warmup=3
    )
    study = study_of(folder, search)
    final, spent, element = 0.0, 0, 0
    while spent < budget:
        asked = study.ask(element, is_alive=everybody_lives)
        assert asked is not None
        height, element = peak(asked.params), element + 1
        for step in range(1, STEPS + 1):
            spent += 1
            if step in (3, 9, 27) and study.report(asked, step, height * (1 - math.exp(-step / 9))):
                study.prune(asked, "")
                break
        else:
            study.tell(asked, [height])
            final = max(final, height)
    return final, element


def test_successive_halving_finds_more_than_whole_trials_with_as_many_steps(tmp_path: Path) -> None:
    budget = 12 * STEPS
    found = {
        pruner: [
            within(tmp_path / f"{pruner}-{seed}", pruner=pruner, seed=seed, budget=budget) for seed in SEEDS
        ]
        for pruner in (Pruner.none, Pruner.asha)
    }
    missed = {pruner: 1 - fmean(value for value, _ in told) for pruner, told in found.items()}
    trials = {pruner: fmean(number for _, number in told) for pruner, told in found.items()}
    assert trials[Pruner.none] == 12
    assert trials[Pruner.asha] > 2 * trials[Pruner.none]
    assert missed[Pruner.asha] < 0.75 * missed[Pruner.none]  # margin: a quarter of what it misses
