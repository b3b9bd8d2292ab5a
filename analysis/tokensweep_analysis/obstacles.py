"""What stands in the way of a verdict, whatever the numbers are: the reason why a claim has none."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isnan

from tokensweep_analysis.arms import Arm, Cell, other_training, pair_mismatch
from tokensweep_analysis.claims import Claim, Verdict
from tokensweep_analysis.contrasts import differences
from tokensweep_analysis.intervals import TWO_CHECKPOINTS, Estimate
from tokensweep_analysis.metrics import STATED, Metric
from tokensweep_analysis.rules import RULES
from tokensweep_analysis.wording import counted

LEAST_SEEDS = 3  # below it a difference between two methods cannot be told from one between two runs
LEAST_QUESTIONS = 20
MOST_GAP = 0.05  # of truncated or unreadable answers, beyond the other arm's
_STATES = {  # of runs that do not count, as a sentence goes on after their seeds
    "missing": "not run",
    "running": "still running",
    "trained": "not evaluated",
    "interrupted": "interrupted",
    "failed": "failed",
    "unreadable": "unreadable",
}


@dataclass(frozen=True)
class Obstacle:
    """What keeps a claim from being decided, whatever its numbers are."""

    verdict: Verdict
    reason: str


def look(claim: Claim, setting: str, cells: Mapping[Cell, Arm]) -> tuple[Obstacle | None, Estimate | None]:
    """The difference as far as there is one, and what stands in the way of a verdict."""
    assert claim.metric is not None
    sides = [cells.get((setting, arm, claim.benchmark)) for arm in (claim.left, claim.right)]
    left, right = sides
    if left is None or right is None:
        return Obstacle(Verdict.not_run, _absent(claim, setting, cells)), None
    for name, arm in ((claim.left, left), (claim.right, right)):
        if not arm.runs:
            return Obstacle(Verdict.not_run, f"no run of {name} has finished"), None
    most = min(left.largest_k, right.largest_k)
    if claim.metric.num_drawn > most:
        needed = (
            f"{claim.metric} needs {claim.metric.at:g} different samples of each question, there are {most}"
        )
        return Obstacle(Verdict.not_run, needed), None
    for name, arm in ((claim.left, left), (claim.right, right)):
        if claim.metric.kind in STATED and claim.metric not in arm.stated_metrics([claim.metric.num_drawn]):
            return Obstacle(Verdict.not_run, _unstated(claim.metric, name, arm)), None
    odd = left.odd or right.odd or pair_mismatch(left, right)
    estimate = None if odd else differences(left, right, metrics=[claim.metric])[claim.metric]
    if other := another_subject(claim, models=(left.models, right.models), data=(left.datas, right.datas)):
        return Obstacle(Verdict.not_comparable, other), estimate
    if estimate is None:
        return Obstacle(Verdict.inconclusive, odd), None
    guard = _guard(claim, left, right, estimate)
    return (Obstacle(Verdict.inconclusive, guard) if guard else None), estimate


def _unstated(metric: Metric, name: str, arm: Arm) -> str:
    """Why an arm has no number for a metric of stated confidences."""
    if any(each.stated is None for each in arm.evaluations):
        return f"{metric} needs samples that state a confidence, too few of those of {name} do"
    return f"{metric} is not defined for {name}: its wrong, or its right, samples are of one question or none"


def _absent(claim: Claim, setting: str, cells: Mapping[Cell, Arm]) -> str:
    """Why there is no cell for a claim."""
    arms = {arm for place, arm, _ in cells if place == setting}
    missing = [arm for arm in (claim.left, claim.right) if arm not in arms]
    if missing:
        return f"this sweep has no {' and no '.join(missing)}"
    return f"no evaluation on {claim.benchmark}"


def no_setting(claim: Claim, settings: Collection[str]) -> str:
    """A sentence for a claim about a setting that is none of a sweep's."""
    return f"no setting {claim.setting} in this sweep (has {', '.join(settings)})"


def another_subject(
    claim: Claim,
    *,
    models: tuple[Collection[str], Collection[str]],
    data: tuple[Collection[str], Collection[str]],
) -> str:
    """In what runs differ from what a claim is about, or from each other beside the method; empty in nothing.

    Each pair is what the left and what the right arm is trained with.
    """
    odd = []
    for what, wanted, sides in (("model", claim.model, models), ("data", claim.data, data)):
        got = {*sides[0], *sides[1]}
        if wanted and {_plain(each) for each in got} != {_plain(wanted)}:
            names = " and ".join(sorted(got)) or "that was not written down"
            odd.append(f"{what} {names} instead of {wanted}")
    other = other_training(models=models, data=data)
    return "; ".join(odd) or (f"arms are trained with {other}" if other else "")


def _plain(name: str) -> str:
    """A name as people mean it: no owner, no case, no separators."""
    return re.sub(r"[^a-z0-9]", "", name.rpartition("/")[2].lower())


def _guard(claim: Claim, left: Arm, right: Arm, estimate: Estimate) -> str:
    """What forbids a verdict though there is a difference; empty when nothing does."""
    sides = [(claim.left, left), (claim.right, right)]
    seeds = min(len(left.seeds), len(right.seeds))
    if seeds < LEAST_SEEDS:
        one = TWO_CHECKPOINTS if seeds == 1 else f"{seeds} seeds"
        few = [side for side in sides if len(side[1].seeds) < LEAST_SEEDS]
        return f"{one}{_lacking(*few)}; a claim about a method needs {LEAST_SEEDS}"
    if left.num_questions < LEAST_QUESTIONS:
        return f"{counted(left.num_questions, 'question')}, a verdict needs {LEAST_QUESTIONS}"
    for name, arm in sides:
        if repeated := next((each.remark for each in arm.evaluations if each.remark), ""):
            return f"{name}: {repeated}"
    if claim.metric is not None and claim.metric.is_loss:
        sides.reverse()  # the arm with less is claimed to win
    for name, arm in sides if RULES[claim.kind].is_mutual else sides[:1]:
        if ill := next((run.health for run in arm.runs if run.health), ""):
            return f"{name} is not healthy: {ill}"
    if unlike := _measured_unlike(*sides, is_mutual=RULES[claim.kind].is_mutual):
        return unlike
    if isnan(estimate.standard_error):
        return "the scores have no spread, so there is no interval"
    return ""


def _lacking(*sides: tuple[str, Arm]) -> str:
    """In parentheses, what became of planned runs of these arms that do not count; empty where all do."""
    found: dict[str, list[int]] = {}
    for name, arm in sides:
        for seed, state in arm.absent:
            found.setdefault(f"of {name} {_STATES.get(state, state)}", []).append(seed)
    parts = [f"seed{'s' * (len(own) > 1)} {', '.join(map(str, own))} {what}" for what, own in found.items()]
    return f" ({'; '.join(parts)})" if parts else ""


def _measured_unlike(winner: tuple[str, Arm], other: tuple[str, Arm], *, is_mutual: bool) -> str:
    """A sentence when an arm whose answers must be readable has too many more that are not."""
    for name, what in (("truncated_fraction", "truncated"), ("no_answer_fraction", "unreadable")):
        mine, theirs = winner[1].mean(name), other[1].mean(name)
        if mine is None or theirs is None:
            continue
        gap = mine - theirs
        if (abs(gap) if is_mutual else gap) > MOST_GAP:
            return (
                f"{100 * mine:.1f} % of the answers of {winner[0]} are {what} and {100 * theirs:.1f} % of "
                f"those of {other[0]}: they are not measured alike"
            )
    return ""
