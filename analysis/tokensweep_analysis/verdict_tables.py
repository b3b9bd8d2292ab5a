"""What was decided of a sweep's claims, as a table and a sentence each. For the terminal and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from tokensweep_analysis.claims import ClaimKind, Judgement, Verdict
from tokensweep_analysis.layout import Cell, Column
from tokensweep_analysis.sections import column, estimated, p_value, share

HOW_TO_READ = (
    "Reproduced and refuted follow rules that the code had before the runs; inconclusive means that these "
    "runs cannot tell, and is no evidence for equality. Intervals and Holm p are adjusted over the claims of "
    "the paper, or of the sweep itself, in one setting."
)


def verdict_columns(judgements: Sequence[Judgement]) -> tuple[Column, ...]:
    """A row per claim and setting."""
    several = len({each.setting for each in judgements}) > 1
    names = [f"{each.claim.id}, {each.setting}" if several else each.claim.id for each in judgements]
    return (
        column("claim", names),
        Column(
            Cell(("verdict",)),
            tuple(
                Cell(tuple(verdict_of(each).split(" ", 1)), strong=each.verdict in _DECIDED)
                for each in judgements
            ),
        ),
        Column(
            Cell(("difference",)),
            tuple(estimated(each.estimate, sign="+") for each in judgements),
        ),
        column("Holm p", [p_value(each.p_holm) for each in judgements]),
        column("detects", [share(each.detectable) for each in judgements]),
        column("claimed", [share(each.claim.claimed) for each in judgements]),
    )


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
        yield f"In {where} {text}" if where else text.capitalize()


def said(judgement: Judgement) -> str:
    """The claim in words."""
    claim = judgement.claim
    if claim.kind is ClaimKind.all_of:
        return f"all of {claim.contrast}"
    margin = f"{100 * claim.margin:g}" if claim.margin is not None else ""
    what = {
        ClaimKind.superiority: f"{claim.left} is above {claim.right}",
        ClaimKind.non_inferiority: f"{claim.left} is at most {margin} points below {claim.right}",
        ClaimKind.equivalence: f"{claim.left} is within {margin} points of {claim.right}",
        ClaimKind.at_least: f"{claim.left} is at least {margin} points above {claim.right}",
    }[claim.kind]
    return f"{what} on {claim.measure}"
