"""What was decided of a sweep's claims, as a table and a sentence each. For terminal, Markdown and page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from math import isnan

from tokensweep_analysis.claims import POOLED, ClaimKind, Judgement, Verdict
from tokensweep_analysis.intervals import Estimate
from tokensweep_analysis.layout import Cell, Column
from tokensweep_analysis.sections import estimated, p_value, share
from tokensweep_analysis.wording import detected, percent

HOW_TO_READ = (
    "Reproduced and refuted follow rules that the code had before the runs; inconclusive means that these "
    "runs cannot tell, and is no evidence for equality. Interval and p are of being refuted where a claim "
    "is, else of being reproduced. Both are adjusted by Holm over the claims of the paper, or of the sweep "
    "itself, that could be tested in one setting: an interval has the level it is printed with, and where "
    "that is not the one of the rule, the rule's stands in brackets with the number of claims. "
    "Detects is the smallest true difference that such runs find in 80 of 100 repetitions at the level that "
    "Holm left this claim; tokensweep plan gives it for Holm's first step, the hardest."
)


def verdict_columns(judgements: Sequence[Judgement]) -> tuple[Column, ...]:
    """A row per claim and setting."""
    several = len({each.setting for each in judgements}) > 1
    names = [(f"{e.claim.id},", e.setting) if several else (e.claim.id,) for e in judgements]
    columns = {
        "claim": [Cell(name) for name in names],
        "verdict": [
            Cell(tuple(verdict_of(each).split()), strong=each.verdict in _DECIDED) for each in judgements
        ],
        "difference": [_difference(each.estimate) for each in judgements],
        "Holm p": [Cell((p_value(each.p_holm),)) for each in judgements],
        "detects": [Cell((detected(each.detectable),)) for each in judgements],
    }
    if any(each.claim.claimed is not None for each in judgements):
        columns["claimed"] = [Cell((share(each.claim.claimed, sign="+"),)) for each in judgements]
    return tuple(Column(Cell(tuple(name.split())), tuple(cells)) for name, cells in columns.items())


def _difference(estimate: Estimate | None) -> Cell:
    """Points, the interval, and its level: claims of a table differ in it."""
    cell = estimated(estimate, sign="+")
    has_interval = estimate is not None and not isnan(estimate.low)
    return Cell((*cell.parts, f"at {percent(estimate.confidence)}")) if estimate and has_interval else cell


_DECIDED = frozenset({Verdict.reproduced, Verdict.refuted})


def verdict_of(judgement: Judgement) -> str:
    """The verdict, and whether the claimed size fits."""
    return f"{judgement.verdict} ({judgement.grade})" if judgement.grade else str(judgement.verdict)


def reasons(judgements: Iterable[Judgement]) -> Iterator[str]:
    """What is claimed, by which rule it is judged and what decided in each setting, a paragraph per claim."""
    for _, group in groupby(judgements, key=lambda each: each.claim.id):
        own = list(group)
        rule = next((f"; {each.rule}" for each in own if each.rule), "")
        source = f" Source: {own[0].claim.source}." if own[0].claim.source else ""
        yield f"{own[0].claim.id}: {said(own[0])}{rule}. {' '.join(_decided(own))}{source}"


def _decided(judgements: Sequence[Judgement]) -> Iterator[str]:
    """Verdict and reason, settings that agree in both together."""
    settings: dict[str, list[str]] = {}
    for each in judgements:
        settings.setdefault(f"{verdict_of(each)}: {each.reason}.", []).append(each.setting)
    for text, own in settings.items():
        where = ", ".join(filter(None, own))
        yield f"In {where} {text}" if where else f"{text[:1].upper()}{text[1:]}"


def said(judgement: Judgement) -> str:
    """The claim in words."""
    claim = judgement.claim
    if claim.kind is ClaimKind.all_of:
        return f"all of {claim.contrast}"
    pooled = claim.benchmark == POOLED
    measure = f"pooled {claim.metric}" if pooled else f"{claim.metric} on {claim.benchmark}"
    margin = f"{100 * claim.margin:g}" if claim.margin is not None else ""
    what = {
        ClaimKind.superiority: f"{claim.left} is above {claim.right}",
        ClaimKind.non_inferiority: f"{claim.left} is at most {margin} points below {claim.right}",
        ClaimKind.equivalence: f"{claim.left} is within {margin} points of {claim.right}",
        ClaimKind.at_least: f"{claim.left} is at least {margin} points above {claim.right}",
    }[claim.kind]
    return f"{what} in {measure}"
