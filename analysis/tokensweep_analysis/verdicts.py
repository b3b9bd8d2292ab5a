"""Decides what the runs of a sweep say of its claims, by rules that were fixed before the runs.

A verdict needs: arms that ran, evaluations that agree, the model and data that the claim is about, three
seeds, twenty questions, a healthy arm on the side that is claimed to win, and a design that could have seen
the claimed difference. What is missing is the reason of the verdict. Intervals and p values are adjusted by
Holm over the claims of a family: a paper's, or a sweep's own, in one setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose, isnan

from tokensweep_analysis.arms import Arm, Cell
from tokensweep_analysis.claims import Claim, ClaimKind, Judgement, Verdict
from tokensweep_analysis.decisions import Belief, posterior
from tokensweep_analysis.intervals import Estimate
from tokensweep_analysis.multiplicity import holm, holm_confidences
from tokensweep_analysis.obstacles import Obstacle, look, no_setting
from tokensweep_analysis.rules import ALPHA, RULES, Bounds
from tokensweep_analysis.wording import detected, percent

_SURE, _UNLIKELY = 0.975, 0.05  # what a sceptic must believe to agree


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
            absent = Obstacle(Verdict.not_run, no_setting(claim, settings))
            judged[claim.id, claim.setting] = _without(claim, claim.setting, absent)
    order = {claim.id: place for place, claim in enumerate(claims)}
    return tuple(sorted(judged.values(), key=lambda each: order[each.claim.id]))


def families(claims: Sequence[Claim]) -> list[list[Claim]]:
    """Claims that are adjusted together: those of the sweep itself, and those of its paper."""
    simple = [claim for claim in claims if claim.kind is not ClaimKind.all_of]
    own, published = [c for c in simple if not c.model], [c for c in simple if c.model]
    return [family for family in (own, published) if family]


@dataclass(frozen=True)
class _Test:
    """A test of a claim: p, its adjustment, and the confidence that Holm left it."""

    p_value: float
    p_holm: float
    confidence: float


@dataclass(frozen=True)
class _Level:
    """A claim's place in its family, in which both of its tests are adjusted."""

    reproduced: _Test
    refuted: _Test
    family: int  # claims that were tested together


def _judge_family(claims: Sequence[Claim], setting: str, cells: Mapping[Cell, Arm]) -> list[Judgement]:
    found = {claim.id: look(claim, setting, cells) for claim in claims}
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
    reproduced = [RULES[claim.kind].p_reproduced(each, claim.smallest_effect) for claim, each in tested]
    refuted = [RULES[claim.kind].p_refuted(each, claim.smallest_effect) for claim, each in tested]
    pairs = zip(_tests(reproduced), _tests(refuted), strict=True)
    return [_Level(*pair, family=len(tested)) for pair in pairs]


def _tests(p_values: Sequence[float]) -> list[_Test]:
    found = zip(p_values, holm(p_values), holm_confidences(p_values), strict=True)
    return [_Test(*each) for each in found]


def _decides(obstacle: Obstacle | None) -> bool:
    """Whether a claim counts in its family: a guard makes it inconclusive, but it was tested."""
    return obstacle is None or obstacle.verdict is Verdict.inconclusive


def _decide(
    claim: Claim, setting: str, estimate: Estimate, level: _Level, obstacle: Obstacle | None
) -> Judgement:
    reason = obstacle.reason if obstacle else ""
    undecided = _without(claim, setting, Obstacle(Verdict.inconclusive, reason), estimate)
    if isnan(level.reproduced.p_value):
        return undecided
    effect, rule = claim.smallest_effect, RULES[claim.kind]
    two_sided, one_sided = level.reproduced, level.refuted
    if not rule.is_two_sided:
        two_sided, one_sided = one_sided, two_sided
    wide, narrow = estimate.at(two_sided.confidence), estimate.at(1 - 2 * (1 - one_sided.confidence))
    ends = Bounds(wide.low, wide.high, narrow.low, narrow.high)
    reproduce, refute = (wide, narrow) if rule.is_two_sided else (narrow, wide)
    alpha = (1 - level.reproduced.confidence) * (1 if rule.is_two_sided else 2)
    detectable = estimate.detectable(alpha=alpha)
    verdict = Verdict.inconclusive
    if rule.reproduced(ends, effect):
        verdict = Verdict.reproduced
    elif rule.refuted(ends, effect):
        verdict = Verdict.refuted
    if verdict is not Verdict.refuted:
        reason = reason or _too_coarse(claim, detectable)
    if reason:
        verdict = Verdict.inconclusive
    belief = posterior(estimate)
    shown, test = (refute, level.refuted) if verdict is Verdict.refuted else (reproduce, level.reproduced)
    return replace(
        undecided,
        verdict=verdict,
        grade=_grade(claim, reproduce) if verdict is Verdict.reproduced else "",
        rule=rule.words.format(effect=_points(effect)),
        reason=reason or f"{_spans(wide, narrow, level)}{_sceptic(verdict, effect, belief, claim)}",
        estimate=shown,
        reproduce=reproduce,
        refute=refute,
        holm_over=level.family,
        p_value=test.p_value,
        p_holm=test.p_holm,
        detectable=detectable,
        smallest_effect=effect,
        p_above_0=belief.above(0),
        p_above_smallest=belief.above(effect) if rule.is_two_sided else None,
    )


def _points(share: float) -> str:
    number = f"{100 * share:g}"
    return f"{number} point" if number == "1" else f"{number} points"


def _too_coarse(claim: Claim, detectable: float) -> str:
    """A design that cannot see the claimed difference shows an inflated one when it sees any.

    What is refuted was seen not to be there, and claims with a margin have their interval held to it.
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


def _sceptic(verdict: Verdict, effect: float, belief: Belief, claim: Claim) -> str:
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


def _without(claim: Claim, setting: str, obstacle: Obstacle, estimate: Estimate | None = None) -> Judgement:
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
    verdict = min((part.verdict for part in parts), key=_WEAKEST.index)
    return Judgement(
        claim=claim,
        setting=setting,
        verdict=verdict,
        rule="reproduced if all parts are, refuted if one is",
        reason=", ".join(f"{part.claim.id} {part.verdict}" for part in parts),
    )
