"""Rollouts that are worth reading, right and wrong ones, early and late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Example:
    """One rollout; ``tokens`` are its rows of the token table, without the last ``omitted``."""

    step: int
    problem_id: str
    grade: str
    prompt: str
    tokens: pd.DataFrame
    omitted: int = 0


def examples(
    tokens: pd.DataFrame, *, prompts: Mapping[tuple[int, int], str], number: int, max_tokens: int
) -> list[Example]:
    """At most ``number`` rollouts, half from the last stored step and half from the first.

    Of each step correct ones and others take turns, as far as there are; of each sort those with most kept
    tokens come first, one per prompt before a second of any. A rollout is cut after
    ``max_tokens // number`` tokens. ``prompts`` maps (step, group) to the prompt's text.
    """
    steps = sorted(tokens["step"].unique(), reverse=True)
    wanted = [steps[0], steps[-1]] if len(steps) > 1 else steps
    chosen: list[Example] = []
    for place, step in enumerate(wanted):
        share = (number - len(chosen)) // (len(wanted) - place)
        part = tokens[tokens["step"] == step]
        for group, sample in _in_turn(part).head(share).itertuples(index=False):
            own = part[(part["group"] == group) & (part["sample"] == sample)]
            chosen.append(_example(own, prompts[int(step), int(group)], limit=max_tokens // number))
    return chosen


def _in_turn(step: pd.DataFrame) -> pd.DataFrame:
    """Group and sample of the rollouts of a step, in the order in which they are worth reading."""
    by = step.groupby(["group", "sample"])
    rollouts = pd.DataFrame({"kept": by["kept"].sum(), "is_other": by["grade"].first() != "correct"})
    rollouts = rollouts.reset_index().sort_values("kept", ascending=False, kind="stable")
    rollouts["again"] = rollouts.groupby("group").cumcount()
    rollouts = rollouts.sort_values("again", kind="stable")
    rollouts["turn"] = rollouts.groupby("is_other").cumcount()
    return rollouts.sort_values(["turn", "is_other"], kind="stable")[["group", "sample"]]


def _example(own: pd.DataFrame, prompt: str, *, limit: int) -> Example:
    first = own.iloc[0]
    return Example(
        step=int(first["step"]),
        problem_id=str(first["problem_id"]),
        grade=str(first["grade"]),
        prompt=prompt,
        tokens=own.head(limit),
        omitted=max(0, len(own) - limit),
    )
