"""Stored rollouts of a run: where they lie, reading them, and a random share of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

PER_TOKEN = ("token_ids", "old_entropy", "advantages", "weights", "active")
_PER_ROLLOUT = ("step", "problem_id", "group", "sample", "minibatch", "grade", "prompt_ids")
_PREFIX = "step-"


def stored_files(run_dir: Path) -> dict[int, Path]:
    """The file of every step that stored rollouts, in the order of training."""
    files = sorted((run_dir / "rollouts").glob(f"{_PREFIX}*.parquet"))
    return {int(path.stem.removeprefix(_PREFIX)): path for path in files}


def read_rollouts(path: Path) -> pd.DataFrame:
    """One row per rollout; the columns of ``PER_TOKEN`` hold a list over its completion tokens.

    Raises ValueError naming the file when it cannot be read, lacks a column, or its lists do not fit.
    """
    columns = [*_PER_ROLLOUT, *PER_TOKEN]
    advice = "move it away to analyse the other steps"
    try:
        missing = sorted(set(columns) - set(pq.read_schema(path).names))
        if missing:
            raise ValueError(f"{path} must have stored rollouts, but lacks {', '.join(missing)}: {advice}")
        frame: pd.DataFrame = pq.read_table(path, columns=columns).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read ({error}): {advice}") from error
    sizes = np.array([[len(value) for value in frame[name]] for name in PER_TOKEN])
    if len(frame) == 0 or (sizes != sizes[0]).any():
        raise ValueError(f"{path} must have a value per token in {', '.join(PER_TOKEN)}: {advice}")
    if not np.isfinite(np.concatenate(frame["old_entropy"].to_list())).all():
        raise ValueError(f"{path} must have finite entropies, got NaN or infinity: {advice}")
    return frame


def random_share(rollouts: pd.DataFrame, *, max_tokens: int, seed: int) -> pd.DataFrame:
    """All rollouts if they have at most ``max_tokens`` completion tokens, else a random part that has.

    At least one rollout stays. Rows keep their order.
    """
    lengths = np.array([len(ids) for ids in rollouts["token_ids"]])
    if lengths.sum() <= max_tokens:
        return rollouts
    order = np.random.default_rng(seed).permutation(len(rollouts))
    count = max(1, int((lengths[order].cumsum() <= max_tokens).sum()))
    return rollouts.iloc[np.sort(order[:count])].reset_index(drop=True)
