"""How much each parameter decides whether a trial is among the best. For the report."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

from tokensweep_analysis.search.stored import Study

if TYPE_CHECKING:
    import optuna

FEWEST = 10  # complete trials
_BEST_SHARE = 0.1  # PED-ANOVA's default: what tells the best tenth from the others
_MOST_BEST = 0.5  # of the trials
_FEWEST_BEST = 5  # "preferable to include at least 5 trials", PedAnovaImportanceEvaluator of Optuna 5.0


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Shares that add up to 1 by key, the largest first, or why there are none."""

    shares: Mapping[str, float] = field(default_factory=dict)
    existed: Mapping[str, int] = field(default_factory=dict)  # complete trials that had the parameter
    num_trials: int = 0
    num_best: int = 0  # trials that the others are told from, with those that are tied with them
    reason: str = ""


def importance_of(study: Study) -> Importance:
    """Importance by PED-ANOVA, which also knows parameters that exist in some trials only.

    Source: arXiv:2304.10255 and, for conditional parameters, arXiv:2601.20800, as Optuna 5 has them.
    Departure: the best are a tenth of the trials but at least 5 of them.
    """
    trials = study.complete
    if len(trials) < FEWEST:
        return Importance(reason=f"it takes {FEWEST} complete trials, got {len(trials)}")
    if len(study.space.parameters) < 2:
        return Importance(reason="there is one parameter, so all of it is that one's")
    if len({each.values for each in trials}) == 1:
        return Importance(reason="all complete trials have the same value")
    share = max(_BEST_SHARE, _FEWEST_BEST / len(trials))
    num_best = _num_best(study, share=share)
    if num_best > _MOST_BEST * len(trials):
        return Importance(reason=f"values are tied, so that {num_best} of {len(trials)} trials are the best")
    found = _evaluated(study, share=share)
    total = sum(found.values())
    if total <= 0:
        return Importance(reason="no parameter tells the best trials from the others")
    shares = {key: value / total for key, value in sorted(found.items(), key=lambda pair: -pair[1])}
    return Importance(
        shares=shares,
        existed={one.key: sum(one.key in each.params for each in trials) for one in study.space.parameters},
        num_trials=len(trials),
        num_best=num_best,
    )


def _num_best(study: Study, *, share: float) -> int:
    """How many trials Optuna takes for the best: with one objective, ties are all in."""
    wanted = ceil(share * len(study.complete))
    if len(study.goals) > 1:
        return wanted
    sign = study.goals[0].sign
    values = sorted((sign * each.values[0] for each in study.complete if each.values), reverse=True)
    return sum(value >= values[wanted - 1] for value in values)


def _evaluated(study: Study, *, share: float) -> dict[str, float]:
    """Optuna's numbers, not normalised, in the order of the space."""
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study that it makes
    try:
        with warnings.catch_warnings():
            # Of parameters of one trial (the report says for how many each existed), and of ends of ranges
            # that no step reaches.
            warnings.simplefilter("ignore")
            found = get_param_importances(
                _in_memory(study),
                evaluator=PedAnovaImportanceEvaluator(target_quantile=share),
                normalize=False,
            )
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {one.key: found[one.key] for one in study.space.parameters if one.key in found}


def _in_memory(study: Study) -> optuna.Study:
    """The complete trials as a study of Optuna's."""
    import optuna

    distributions = {one.key: one.distribution() for one in study.space.parameters}
    made = optuna.create_study(
        directions=[optuna.study.StudyDirection[goal.direction.upper()] for goal in study.goals]
    )
    made.add_trials(
        optuna.trial.create_trial(
            params=dict(each.params),
            distributions={key: distributions[key] for key in each.params},
            values=each.values,
        )
        for each in study.complete
    )
    return made
