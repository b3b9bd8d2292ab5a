"""The token table: one row per completion token of the stored rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Entropies = Sequence[NDArray[np.float32]]  # per rollout, over its completion tokens

_CATEGORIES = ("problem_id", "grade", "token")


def token_table(
    rollouts: pd.DataFrame, *, pieces: Mapping[int, str], base_entropy: Entropies | None
) -> pd.DataFrame:
    """One row per completion token of ``rollouts`` (see ``stored.read_rollouts``), in order.

    ``pieces`` is the text of every token id. Columns: step, problem_id, group and sample (which rollout of
    which prompt), minibatch, grade, position (from 0), token_id, token, entropy (nats, policy that sampled),
    base_entropy (nats, NaN without a base), weight, advantage, active (may carry a gradient).
    """
    lengths = np.array([len(ids) for ids in rollouts["token_ids"]])
    first = lengths.cumsum() - lengths
    columns: dict[str, object] = {
        name: np.repeat(rollouts[name].to_numpy(), lengths)
        for name in ("step", "problem_id", "group", "sample", "minibatch", "grade")
    }
    ids = _flat(rollouts, "token_ids", np.int64)
    entropy = _flat(rollouts, "old_entropy", np.float32)
    missing = np.full(len(ids), np.nan, dtype=np.float32)
    base = missing if base_entropy is None else np.concatenate([*base_entropy]).astype(np.float32)
    if len(base) != len(ids):
        raise ValueError(f"base_entropy must have a value per token, {len(ids)}, got {len(base)}")
    columns |= {
        "position": np.arange(len(ids)) - np.repeat(first, lengths),
        "token_id": ids,
        "token": _texts(ids, pieces),
        "entropy": entropy,
        "base_entropy": base,
        "weight": _flat(rollouts, "weights", np.float32),
        "advantage": _flat(rollouts, "advantages", np.float32),
        "active": _flat(rollouts, "active", np.bool_),
    }
    return pd.DataFrame(columns).astype(dict.fromkeys(_CATEGORIES, "category"))


def _texts(ids: NDArray[np.int64], pieces: Mapping[int, str]) -> NDArray[np.object_]:
    known, place = np.unique(ids, return_inverse=True)
    texts: NDArray[np.object_] = np.array([pieces[int(each)] for each in known], dtype=object)[place]
    return texts


def _flat(rollouts: pd.DataFrame, name: str, dtype: type) -> NDArray[Any]:
    flat: NDArray[Any] = np.concatenate([np.asarray(each, dtype=dtype) for each in rollouts[name]])
    return flat


def has_base(table: pd.DataFrame) -> bool:
    """Whether the table has entropies of a base model."""
    return bool(table["base_entropy"].notna().all()) and len(table) > 0
