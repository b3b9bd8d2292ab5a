"""What a sweep file claims, and what was decided about it. For the plan, the report, the pages and MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tokensweep_analysis.intervals import Estimate
from tokensweep_analysis.metrics import Metric


class ClaimKind(StrEnum):
    """What is claimed of ``left - right``."""

    superiority = "superiority"  # above 0
    non_inferiority = "non_inferiority"  # above -margin
    equivalence = "equivalence"  # between -margin and margin
    at_least = "at_least"  # above margin
    all_of = "all_of"  # each of several claims of the file


class Verdict(StrEnum):
    """What the runs say of a claim."""

    reproduced = "reproduced"
    refuted = "refuted"
    inconclusive = "inconclusive"
    not_comparable = "not comparable"
    not_run = "not run"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of a sweep file; differences are shares, so 0.01 is one point."""

    id: str
    kind: ClaimKind
    left: str = ""  # arm that is claimed to win, or not to lose
    right: str = ""  # arm that it is compared with
    benchmark: str = ""  # or POOLED
    metric: Metric | None = None  # None for all_of
    margin: float | None = None
    claimed: float | None = None  # the difference that was printed, None for curves only
    parts: tuple[str, ...] = ()  # ids, for all_of
    source: str = ""
    model: str = ""  # what the claim is about; empty for the sweep's own claims
    data: str = ""

    @property
    def contrast(self) -> str:
        """The two arms as the file writes them."""
        return f"{self.left} - {self.right}" if self.left else " and ".join(self.parts)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A claim in one setting, with the rule that decided and what it saw."""

    claim: Claim
    setting: str
    verdict: Verdict
    grade: str = ""  # of a reproduced superiority: size consistent | smaller | larger
    rule: str = ""  # for example "lower end of the 95 % interval above 0"
    reason: str = ""  # a sentence with the figures, or the guard that forced the verdict
    estimate: Estimate | None = None  # left minus right; its interval is adjusted as the rule says
    low_90: float | None = None
    high_90: float | None = None
    p_value: float | None = None
    p_holm: float | None = None  # over the claims of the family
    detectable: float | None = None
    smallest_effect: float | None = None  # delta0: the smallest difference worth having
    p_above_0: float | None = None  # posterior under a sceptical prior
    p_above_smallest: float | None = None
