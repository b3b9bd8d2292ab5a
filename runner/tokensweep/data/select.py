"""``tokensweep data select``: the problems that a model is most uncertain about, from its rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from tokensweep.evaluation_job import find_run
from tokensweep.files import replacing
from tokensweep.problems.selection import Scored, Tried, scored, selection_lines

_COLUMNS = ["problem_id", "grade", "old_entropy"]


def select(run: str, *, store: Path, keep: int, to: Path) -> tuple[list[Scored], list[Scored]]:
    """Score every problem whose rollouts a run has stored, and write the ``keep`` best into ``to``.

    Gives back those and all. Raises ValueError for a run without stored rollouts and for fewer problems than
    are wanted with a score above 0: one whose rollouts are all right or all wrong teaches nothing.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    everyone = scored(_tried(find_run(store, run)))
    useful = [each for each in everyone if each.score > 0]
    if len(useful) < keep:
        raise ValueError(
            f"keep={keep} problems must have a score above 0, but of {len(everyone)} with stored rollouts "
            f"only {len(useful)} have: draw more steps, or lower keep"
        )
    to.parent.mkdir(parents=True, exist_ok=True)
    with replacing(to) as partial:
        partial.write_text(selection_lines(useful[:keep]))
    return useful[:keep], everyone


def _tried(run_dir: Path) -> Iterator[Tried]:
    """The stored rollouts of a run."""
    files = sorted((run_dir / "rollouts").glob("step-*.parquet"))
    if not files:
        raise ValueError(
            f"{run_dir} must have stored rollouts, but has none: draw them with "
            "'tokensweep train optim.lr=0 store_rollouts.every=1 store_rollouts.share=1'"
        )
    for file in files:
        for row in pq.read_table(file, columns=_COLUMNS).to_pylist():
            yield Tried(
                problem_id=row["problem_id"], correct=row["grade"] == "correct", entropy=row["old_entropy"]
            )
