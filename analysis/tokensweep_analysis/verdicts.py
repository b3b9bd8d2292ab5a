"""Decides what the runs of a sweep say of its claims, by rules that were fixed before the runs.

A verdict needs: arms that ran, evaluations that agree, the model and data that the claim is about, three
seeds, twenty questions, a healthy arm on the side that is claimed to win, and a design that could have seen
the claimed difference. What is missing is the reason of the verdict. Intervals and p values are adjusted by
Holm over the claims of a family: a paper's, or a sweep's own, in one setting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose, isnan

from tokensweep_analysis.arms import Arm, Cell, other_training, pair_mismatch
from tokensweep_analysis.claims import Claim, ClaimKind, Judgement, Verdict
from tokensweep_analysis.contrasts import differences
from tokensweep_analysis.decisions import Normal, posterior, tost_p
from tokensweep_analysis.intervals import TWO_CHECKPOINTS, Estimate
from tokensweep_analysis.metrics import Kind
from tokensweep_analysis.multiplicity import holm, holm_confidences
from tokensweep_analysis.wording import detected, percent

ALPHA = 0.05
LEAST_SEEDS = 3  # below it a difference between two methods cannot be told from one between two runs
LEAST_QUESTIONS = 20
MOST_GAP = 0.05  # of truncated or unreadable answers, beyond the other arm's
_SURE, _UNLIKELY = 0.975, 0.05  # what a sceptic must believe to agree


@dataclass(frozen=True)
class Bounds:
    """Ends of the intervals of a difference that the rules call 95 % and 90 %; Holm may widen either."""

    low: float
    high: float
    low_90: float
    high_90: float


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a claim counts as reproduced and as refuted. Effect is the margin, or the smallest effect.

    The two are different tests, so Holm adjusts each over its own p values: with levels borrowed from the
    other one, at least one of 8 claims would be refuted falsely in a quarter of sweeps (simulated).
    """

    reproduced: Callable[[Bounds, float], bool]  # bounds, effect
    refuted: Callable[[Bounds, float], bool]
    p_reproduced: Callable[[Estimate, float], float]  # estimate, effect
    p_refuted: Callable[[Estimate, float], float]
    # Reproduced is read off the 95 % interval and refuted off the 90 %; otherwise the reverse.
    is_two_sided: bool
    words: str
    # Whether both arms must be well and readable; otherwise the left one: a collapse of the other may be
    # what is claimed.
    is_mutual: bool = False


RULES: Mapping[ClaimKind, Rule] = {
    ClaimKind.superiority: Rule(
        reproduced=lambda ends, _: ends.low > 0,
        refuted=lambda ends, effect: ends.high_90 < effect or ends.high < 0,
        p_reproduced=lambda estimate, _: estimate.p_value(),
        p_refuted=lambda estimate, effect: estimate.p_below(effect),
        is_two_sided=True,
        words="reproduced if the 95 % interval lies above 0, refuted if it lies below 0 or the 90 % interval "
        "lies below {effect}",
    ),
    ClaimKind.non_inferiority: Rule(
        reproduced=lambda ends, margin: ends.low_90 > -margin,
        refuted=lambda ends, _: ends.high < 0,
        p_reproduced=lambda estimate, margin: estimate.p_above(-margin),
        p_refuted=lambda estimate, _: estimate.p_value(),
        is_two_sided=False,
        words="reproduced if the 90 % interval lies above -{effect}, else refuted if the 95 % interval lies "
        "below 0",
    ),
    ClaimKind.equivalence: Rule(
        reproduced=lambda ends, margin: -margin < ends.low_90 and ends.high_90 < margin,
        refuted=lambda ends, margin: ends.low > margin or ends.high < -margin,
        p_reproduced=tost_p,
        p_refuted=lambda estimate, margin: 2 * min(estimate.p_above(margin), estimate.p_below(-margin), 0.5),
        is_two_sided=False,
        words="reproduced if the 90 % interval lies within {effect} of 0, refuted if the 95 % interval lies "
        "outside",
        is_mutual=True,
    ),
    ClaimKind.at_least: Rule(
        reproduced=lambda ends, margin: ends.low > margin,
        refuted=lambda ends, margin: ends.high_90 < margin,
        p_reproduced=lambda estimate, margin: estimate.p_value(margin),
        p_refuted=lambda estimate, margin: estimate.p_below(margin),
        is_two_sided=True,
        words="reproduced if the 95 % interval lies above {effect}, refuted if the 90 % interval lies below",
    ),
}


def judge(claims: Sequence[Claim], cells: Mapping[Cell, Arm]) -> tuple[Judgement, ...]:
    """A judgement per claim and setting that it is about, claims in their order."""
    settings = list(dict.fromkeys(setting for setting, _, _ in cells))
    judged: dict[tuple[str, str], Judgement] = {}
    for setting in settings:
        own = [claim for claim in claims if claim.setting in ("", setting)]
        for family in families(own):
            judged |= {(each.claim.id, setting): each for each in _judge_family(family, setting, cells)}
        for claim in own:
            if claim.kind is ClaimKind.all_of:
                parts = [judged[part, setting] for part in claim.parts if (part, setting) in judged]
                judged[claim.id, setting] = _all_of(claim, setting, parts)
    for claim in claims:
        if claim.setting and claim.setting not in settings:
            absent = _Obstacle(Verdict.not_run, no_setting(claim, settings))
            judged[claim.id, claim.setting] = _without(claim, claim.setting, absent)
    order = {claim.id: place for place, claim in enumerate(claims)}
    return tuple(sorted(judged.values(), key=lambda each: order[each.claim.id]))


def families(claims: Sequence[Claim]) -> list[list[Claim]]:
    """Claims that are adjusted together: those of the sweep itself, and those of its paper."""
    simple = [claim for claim in claims if claim.kind is not ClaimKind.all_of]
    own, published = [c for c in simple if not c.model], [c for c in simple if c.model]
    return [family for family in (own, published) if family]


@dataclass(frozen=True)
class _Obstacle:
    """What keeps a claim from being decided, whatever its numbers are."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class _Level:
    """A claim's place in its family: p and its adjustment, and the confidence that each test has left."""

    p_value: float
    p_holm: float
    reproduced: float
    refuted: float
    family: int  # claims that were tested together


def _judge_family(claims: Sequence[Claim], setting: str, cells: Mapping[Cell, Arm]) -> list[Judgement]:
    found = {claim.id: _look(claim, setting, cells) for claim in claims}
    tested = {
        claim.id: (claim, estimate)
        for claim in claims
        for obstacle, estimate in [found[claim.id]]
        if estimate is not None and _decides(obstacle)
    }
    levels = dict(zip(tested, _levels(list(tested.values())), strict=True))
    judgements = []
    for claim in claims:
        obstacle, estimate = found[claim.id]
        if claim.id in levels and estimate is not None:
            judgements.append(_decide(claim, setting, estimate, levels[claim.id], obstacle))
        else:
            assert obstacle is not None
            judgements.append(_without(claim, setting, obstacle, estimate))
    return judgements


def _levels(tested: Sequence[tuple[Claim, Estimate]]) -> list[_Level]:
    p_values = [RULES[claim.kind].p_reproduced(each, claim.smallest_effect) for claim, each in tested]
    p_refuted = [RULES[claim.kind].p_refuted(each, claim.smallest_effect) for claim, each in tested]
    confidences = (holm_confidences(p_values), holm_confidences(p_refuted))
    found = zip(p_values, holm(p_values), *confidences, strict=True)
    return [_Level(*each, family=len(tested)) for each in found]


def _decides(obstacle: _Obstacle | None) -> bool:
    """Whether a claim counts in its family: a guard makes it inconclusive, but it was tested."""
    return obstacle is None or obstacle.verdict is Verdict.inconclusive


def _look(claim: Claim, setting: str, cells: Mapping[Cell, Arm]) -> tuple[_Obstacle | None, Estimate | None]:
    """The difference as far as there is one, and what stands in the way of a verdict."""
    assert claim.metric is not None
    sides = [cells.get((setting, arm, claim.benchmark)) for arm in (claim.left, claim.right)]
    left, right = sides
    if left is None or right is None:
        return _Obstacle(Verdict.not_run, _absent(claim, setting, cells)), None
    for name, arm in ((claim.left, left), (claim.right, right)):
        if not arm.runs:
            return _Obstacle(Verdict.not_run, f"no run of {name} has finished"), None
    most = min(left.num_samples, right.num_samples)
    if claim.metric.kind is not Kind.cover_at and claim.metric.at > most:
        needed = f"{claim.metric} needs {claim.metric.at:g} samples of each question, there are {most}"
        return _Obstacle(Verdict.not_run, needed), None
    if odd := left.odd or right.odd or pair_mismatch(left, right):
        return _Obstacle(Verdict.inconclusive, odd), None
    estimate = differences(left, right, metrics=[claim.metric])[claim.metric]
    if other := another_subject(claim, models=(left.models, right.models), data=(left.datas, right.datas)):
        return _Obstacle(Verdict.not_comparable, other), estimate
    guard = _guard(claim, left, right, estimate)
    return (_Obstacle(Verdict.inconclusive, guard) if guard else None), estimate


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
    seeds = min(len(left.seeds), len(right.seeds))
    if seeds < LEAST_SEEDS:
        one = TWO_CHECKPOINTS if seeds == 1 else f"{seeds} seeds"
        return f"{one}; a claim about a method needs {LEAST_SEEDS}"
    if left.num_questions < LEAST_QUESTIONS:
        return f"{left.num_questions} questions, a verdict needs {LEAST_QUESTIONS}"
    sides = [(claim.left, left), (claim.right, right)]
    for name, arm in sides if RULES[claim.kind].is_mutual else sides[:1]:
        if ill := next((run.health for run in arm.runs if run.health), ""):
            return f"{name} is not healthy: {ill}"
    if unlike := _measured_unlike(claim, left, right):
        return unlike
    if isnan(estimate.standard_error):
        return "the scores have no spread, so there is no interval"
    return ""


def _measured_unlike(claim: Claim, left: Arm, right: Arm) -> str:
    """A sentence when an arm whose answers must be readable has too many more that are not."""
    for name, what in (("truncated_fraction", "truncated"), ("no_answer_fraction", "unreadable")):
        mine, theirs = left.mean(name), right.mean(name)
        if mine is None or theirs is None:
            continue
        gap = mine - theirs
        if (abs(gap) if RULES[claim.kind].is_mutual else gap) > MOST_GAP:
            return (
                f"{100 * mine:.1f} % of the answers of {claim.left} are {what} and {100 * theirs:.1f} % of "
                f"those of {claim.right}: they are not measured alike"
            )
    return ""


def _decide(
    claim: Claim, setting: str, estimate: Estimate, level: _Level, obstacle: _Obstacle | None
) -> Judgement:
    reason = obstacle.reason if obstacle else ""
    shown = _without(claim, setting, _Obstacle(Verdict.inconclusive, reason), estimate)
    if isnan(level.p_value):
        return shown
    effect, rule = claim.smallest_effect, RULES[claim.kind]
    wide, narrow = level.reproduced, level.refuted
    if not rule.is_two_sided:
        wide, narrow = narrow, wide
    estimate, one_sided = estimate.at(wide), estimate.at(1 - 2 * (1 - narrow))
    ends = Bounds(estimate.low, estimate.high, one_sided.low, one_sided.high)
    reproduce, refute = (estimate, one_sided) if rule.is_two_sided else (one_sided, estimate)
    alpha = (1 - level.reproduced) * (1 if rule.is_two_sided else 2)
    detectable = estimate.detectable(alpha=alpha)
    verdict = Verdict.inconclusive
    if rule.reproduced(ends, effect):
        verdict = Verdict.reproduced
    elif rule.refuted(ends, effect):
        verdict = Verdict.refuted
    belief = posterior(estimate)
    reason = reason or _too_coarse(claim, detectable)
    if reason:
        verdict = Verdict.inconclusive
    return replace(
        shown,
        verdict=verdict,
        grade=_grade(claim, estimate) if verdict is Verdict.reproduced else "",
        rule=rule.words.format(effect=_points(effect)),
        reason=reason or f"{_spans(estimate, one_sided, level)}{_sceptic(verdict, effect, belief, claim)}",
        estimate=estimate,
        low_reproduce=reproduce.low,
        high_reproduce=reproduce.high,
        level_reproduce=reproduce.confidence,
        low_refute=refute.low,
        high_refute=refute.high,
        level_refute=refute.confidence,
        holm_over=level.family,
        p_value=level.p_value,
        p_holm=level.p_holm,
        detectable=detectable,
        smallest_effect=effect,
        p_above_0=belief.above(0),
        p_above_smallest=belief.above(effect),
    )


def _points(share: float) -> str:
    number = f"{100 * share:g}"
    return f"{number} point" if number == "1" else f"{number} points"


def _too_coarse(claim: Claim, detectable: float) -> str:
    """A design that cannot see the claimed difference shows an inflated one when it sees any.

    Claims with a margin are exempt: there the interval itself is held to the margin.
    """
    if claim.kind is not ClaimKind.superiority or claim.claimed is None or detectable <= abs(claim.claimed):
        return ""
    return (
        f"the claim is {100 * claim.claimed:+.1f} points, and these runs detect {detected(detectable)} "
        "at the least: add seeds or questions"
    )


def _grade(claim: Claim, estimate: Estimate) -> str:
    if claim.claimed is None or claim.kind is not ClaimKind.superiority:
        return ""
    if estimate.low <= claim.claimed <= estimate.high:
        return "size consistent"
    return "smaller" if estimate.high < claim.claimed else "larger"


def _spans(two_sided: Estimate, one_sided: Estimate, level: _Level) -> str:
    """The intervals that decided, each with its level, and which of the rule's it is if Holm widened it."""
    parts = []
    for estimate, nominal in ((two_sided, 1 - ALPHA), (one_sided, 1 - 2 * ALPHA)):
        name = f"{percent(estimate.confidence)} interval"
        if not isclose(estimate.confidence, nominal):
            name += f" ({percent(nominal)}, Holm over {level.family})"
        parts.append(f"{name} {_span(estimate.low, estimate.high)}")
    return ", ".join(parts)


def _sceptic(verdict: Verdict, effect: float, belief: Normal, claim: Claim) -> str:
    """That a sceptic does not agree yet; empty when one does, and for claims with a margin."""
    if claim.kind is not ClaimKind.superiority:
        return ""
    above_0, above_effect = belief.above(0), belief.above(effect)
    if verdict is Verdict.reproduced and above_0 < _SURE:
        return f"; a sceptic is not sure yet, P(difference > 0) = {above_0:.3f}"
    if verdict is Verdict.refuted and above_effect > _UNLIKELY:
        return f"; a sceptic is not sure yet, P(difference > {_points(effect)}) = {above_effect:.3f}"
    return ""


def _span(low: float, high: float) -> str:
    return f"[{100 * low:+.1f}, {100 * high:+.1f}]"


def _without(claim: Claim, setting: str, obstacle: _Obstacle, estimate: Estimate | None = None) -> Judgement:
    """A judgement that no rule made."""
    return Judgement(
        claim=claim,
        setting=setting,
        verdict=obstacle.verdict,
        reason=obstacle.reason,
        estimate=estimate,
        p_value=estimate.p_value() if estimate else None,
        detectable=estimate.detectable() if estimate else None,
        smallest_effect=claim.smallest_effect if claim.metric else None,
    )


_WEAKEST = (
    Verdict.refuted,
    Verdict.not_run,
    Verdict.not_comparable,
    Verdict.inconclusive,
    Verdict.reproduced,
)


def _all_of(claim: Claim, setting: str, parts: Sequence[Judgement]) -> Judgement:
    """Refuted by one refuted part, reproduced by all; Holm has adjusted the parts with their family."""
    if len(parts) < len(claim.parts):
        return _without(
            claim, setting, _Obstacle(Verdict.not_run, "some of its parts are about other settings")
        )
    verdict = min((part.verdict for part in parts), key=_WEAKEST.index)
    return Judgement(
        claim=claim,
        setting=setting,
        verdict=verdict,
        rule="reproduced if all parts are, refuted if one is",
        reason=", ".join(f"{part.claim.id} {part.verdict}" for part in parts),
    )
