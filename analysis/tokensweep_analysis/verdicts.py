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
from tokensweep_analysis.decisions import Normal, posterior
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
class _Level:
    """A claim's place in its family: p and its adjustment, and the confidence that each test has left."""

    p_value: float
    p_holm: float
    reproduced: float
    refuted: float
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
    p_values = [RULES[claim.kind].p_reproduced(each, claim.smallest_effect) for claim, each in tested]
    p_refuted = [RULES[claim.kind].p_refuted(each, claim.smallest_effect) for claim, each in tested]
    confidences = (holm_confidences(p_values), holm_confidences(p_refuted))
    found = zip(p_values, holm(p_values), *confidences, strict=True)
    return [_Level(*each, family=len(tested)) for each in found]


def _decides(obstacle: Obstacle | None) -> bool:
    """Whether a claim counts in its family: a guard makes it inconclusive, but it was tested."""
    return obstacle is None or obstacle.verdict is Verdict.inconclusive


def _decide(
    claim: Claim, setting: str, estimate: Estimate, level: _Level, obstacle: Obstacle | None
) -> Judgement:
    reason = obstacle.reason if obstacle else ""
    shown = _without(claim, setting, Obstacle(Verdict.inconclusive, reason), estimate)
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
        p_above_smallest=belief.above(effect) if rule.is_two_sided else None,
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
    if len(parts) < len(claim.parts):
        return _without(
            claim, setting, Obstacle(Verdict.not_run, "some of its parts are about other settings")
        )
    verdict = min((part.verdict for part in parts), key=_WEAKEST.index)
    return Judgement(
        claim=claim,
        setting=setting,
        verdict=verdict,
        rule="reproduced if all parts are, refuted if one is",
        reason=", ".join(f"{part.claim.id} {part.verdict}" for part in parts),
    )
