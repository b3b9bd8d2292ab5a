"""Rollouts kept with what was known of every token, for analyses of which tokens a method trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from tokensweep.files import replacing
from tokensweep.loss.objective import Prepared
from tokensweep.seeds import derive_seed
from tokensweep.train.collect import Group, Trial

# One row per rollout; lists run over its completion tokens.
SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("problem_id", pa.string()),
        ("group", pa.int64()),  # within the step
        ("sample", pa.int64()),
        ("sampling_seed", pa.int64()),
        ("weights_version", pa.int64()),
        ("minibatch", pa.int64()),
        ("reward", pa.float32()),
        ("grade", pa.string()),
        ("finish_reason", pa.string()),
        ("text", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("old_logprobs", pa.list_(pa.float32())),
        ("sampler_logprobs", pa.list_(pa.float32())),
        ("old_entropy", pa.list_(pa.float32())),
        ("advantages", pa.list_(pa.float32())),
        ("weights", pa.list_(pa.float32())),  # of the token weights that read the old policy
        ("active", pa.list_(pa.bool_())),  # may carry a gradient
    ]
)


def store_rollouts(
    path: Path, *, groups: Sequence[Group], prepared: Prepared, step: int, share: float, seed: int
) -> None:
    """Write a random ``share`` of the trained rollouts of a step, at least one, as one Parquet file."""
    trials = [(number, trial) for number, group in enumerate(groups) for trial in group]
    generator = torch.Generator().manual_seed(derive_seed(seed, "stored rollouts", step))
    count = max(1, round(share * len(trials)))
    chosen = torch.randperm(len(trials), generator=generator)[:count].sort().values.tolist()
    columns = _token_columns(prepared)
    rows = [_row(index, *trials[index], prepared=prepared, columns=columns, step=step) for index in chosen]
    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), partial, compression="zstd")


def _token_columns(prepared: Prepared) -> dict[str, Tensor]:
    """Every stored column of the trained tokens, [N] each, on the host."""
    columns = {name: prepared.batch.columns[name] for name in ("old_logprobs", "old_entropy")}
    columns |= {"advantages": prepared.advantages, "weights": prepared.weights, "active": prepared.active}
    return {name: column.cpu() for name, column in columns.items()}


def _row(
    index: int, group: int, trial: Trial, *, prepared: Prepared, columns: dict[str, Tensor], step: int
) -> dict[str, Any]:
    ends = prepared.batch.lengths.cumsum(0)
    span = slice(int(ends[index] - prepared.batch.lengths[index]), int(ends[index]))
    return {
        "step": step,
        "problem_id": trial.problem.id,
        "group": group,
        "sample": trial.sample,
        "sampling_seed": trial.request.seed,
        "weights_version": trial.rollout.weights_version,
        "minibatch": int(prepared.batch.minibatch_of[index]),
        "reward": float(prepared.batch.rewards[index]),
        "grade": trial.grade.outcome.value,
        "finish_reason": trial.rollout.finish_reason,
        "text": trial.text,
        "prompt_ids": list(trial.request.prompt_ids),
        "token_ids": list(trial.rollout.completion_ids),
        "sampler_logprobs": list(trial.rollout.sampler_logprobs),  # also of rollouts drawn by a rule
        **{name: column[span].tolist() for name, column in columns.items()},
    }
