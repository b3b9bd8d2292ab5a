"""Everything that one analysis of a run found, from its token table. For terminal, page and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from tokensweep_analysis.tokens.measures import by_position, change_by_base, overlap, percentiles, top_tokens
from tokensweep_analysis.tokens.selection import Rule, select
from tokensweep_analysis.tokens.table import has_base

_POSITIONS = 20  # ranges
_BINS = 20  # of base entropy: 5 % each, as in the paper


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Which run was analysed, and what a reader must know of it."""

    run_id: str
    method: str
    model: str
    temperature: float  # logits were divided by it, in sampling and here
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Tables by name, see ``measures``; without a base ``overlap`` and ``change`` are not among them."""

    subject: Subject
    rule: Rule
    tokens: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]

    @property
    def kept_means(self) -> str:
        """What it means here that a token is kept."""
        if self.rule.kept_by_run:
            return "kept: trained by the run, its weight is not 0"
        return f"kept is a supposition, as the run trained all tokens: {self.rule}"

    @property
    def has_base(self) -> bool:
        """Whether the base model was looked at."""
        return "overlap" in self.tables


def analyse(
    tokens: pd.DataFrame,
    *,
    subject: Subject,
    rule: Rule,
    min_count: int,
    seed: int = 0,
    later: pd.DataFrame | None = None,
) -> Findings:
    """What there is to know of a token table (``table.token_table``).

    ``later`` is a token table of the last stored rollouts whose ``entropy`` is that of later policies, one
    after the other as ``step``: the paper's comparison, in the tables ``overlap_on_last`` and
    ``change_on_last``. There the tokens of high entropy are chosen anew, by the rule's fraction or threshold.
    """
    chosen = select(tokens, rule)
    tables = {
        "percentiles": percentiles(chosen),
        "top_tokens": top_tokens(chosen, min_count=min_count),
        "positions": by_position(chosen, bins=_POSITIONS),
    }
    if has_base(chosen):
        tables |= {"overlap": overlap(chosen, seed=seed), "change": change_by_base(chosen, bins=_BINS)}
    if later is not None:
        own = Rule(fraction=rule.fraction, threshold=rule.threshold, scope=rule.scope)
        again = select(later, own)
        tables |= {
            "overlap_on_last": overlap(again, seed=seed),
            "change_on_last": change_by_base(again, bins=_BINS),
        }
    return Findings(subject=subject, rule=rule, tokens=chosen, tables=tables)


def coarser(change: pd.DataFrame, *, bins: int) -> pd.DataFrame:
    """A table of ``change_by_base`` with fewer bins; its number of bins must be a multiple of ``bins``.

    Means are weighted by tokens: the same numbers as from the tokens.
    """
    width = 100 / bins
    frame = change.assign(**{"from": (change["from"] + 1e-9) // width * width})
    for name in ("base_entropy", "entropy"):
        frame[name] *= frame["tokens"]
    summed = frame.groupby(["step", "from"])[["tokens", "base_entropy", "entropy"]].sum().reset_index()
    for name in ("base_entropy", "entropy"):
        summed[name] /= summed["tokens"]
    summed.insert(2, "to", summed["from"] + width)
    summed["change"] = summed["entropy"] - summed["base_entropy"]
    summed["relative"] = (summed["change"] / summed["base_entropy"]).where(summed["base_entropy"] > 0)
    return summed
