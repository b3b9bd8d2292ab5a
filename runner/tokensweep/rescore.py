"""Entropies of stored rollouts under another policy: the base model of a run, or one of its checkpoints.

They are kept as Parquet beside the analysis, one file per policy and step, and computed again when the
rollouts, the policy or the numbers that they depend on are others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from tokensweep.files import replacing
from tokensweep.identity import digest
from tokensweep.loss.tables import pack
from tokensweep.models.policy import Policy
from tokensweep.train.batch import fill_bins
from tokensweep.train.passes import Scorer

_KEY = b"tokensweep.key"
_VERSION = 1  # raise when the same policy and rollouts would give other numbers

Entropies = list[NDArray[np.float32]]  # per rollout, over its completion tokens
Advance = Callable[[int], None]  # is told how many tokens were scored


@dataclass(frozen=True, kw_only=True)
class Rescorer:
    """A policy that is loaded when it is needed, and the folder that keeps what it said."""

    name: str  # of the policy, a folder in ``cache``
    revision: str  # identity of its weights
    model_folder: Callable[[], Path]  # makes or fetches the model where it has to
    cache: Path
    temperature: float
    dtype: str = "float32"  # of the matrix products
    device: str | torch.device = "cpu"
    micro_tokens: int = 4096  # prompt and completion tokens of one forward, but at least a rollout

    def entropies(self, rollouts: pd.DataFrame, *, step: int, advance: Advance) -> Entropies:
        """Entropy in nats of every completion token, under logits divided by the temperature.

        ``rollouts`` has ``prompt_ids`` and ``token_ids``. Raises ValueError for a model whose vocabulary
        lacks a token of the rollouts.
        """
        path = self.cache / self.name / f"step-{step:06d}.parquet"
        key = self._key(rollouts)
        found = _read(path, key)
        if found is None:
            found = self._scored(rollouts, advance)
            table = pa.table({"entropy": pa.array(found, type=pa.list_(pa.float32()))})
            with replacing(path) as partial:
                pq.write_table(table.replace_schema_metadata({_KEY: key}), partial, compression="zstd")
        else:
            advance(sum(len(each) for each in found))
        return found

    def _key(self, rollouts: pd.DataFrame) -> bytes:
        ids = hashlib.sha256()
        for name in ("prompt_ids", "token_ids"):
            for each in rollouts[name]:
                ids.update(np.asarray(each, dtype=np.int64).tobytes() + b"|")
        return digest([_VERSION, self.revision, self.temperature, self.dtype, ids.hexdigest()]).encode()

    @cached_property
    def _scorer(self) -> Scorer:
        folder = self.model_folder()
        try:
            policy = Policy(folder, device=self.device)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{folder} cannot be loaded ({error}): bring it back as it was") from error
        policy.model.requires_grad_(False)
        return Scorer(policy=policy, temperature=self.temperature, dtype=getattr(torch, self.dtype))

    def _scored(self, rollouts: pd.DataFrame, advance: Advance) -> Entropies:
        prompts = [list(map(int, ids)) for ids in rollouts["prompt_ids"]]
        completions = [list(map(int, ids)) for ids in rollouts["token_ids"]]
        sizes = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        highest = max(map(max, filter(None, [*prompts, *completions])), default=0)
        if highest >= self._scorer.policy.vocab_size:
            raise ValueError(
                f"the {self.name} model must know every token of the rollouts, got token {highest} for a "
                f"vocabulary of {self._scorer.policy.vocab_size}: it is not the model of this run"
            )
        found: Entropies = [np.empty(0, dtype=np.float32)] * len(rollouts)
        for members in fill_bins(range(len(rollouts)), sizes=sizes, budget=self.micro_tokens):
            own = self._of_bin([prompts[m] for m in members], [completions[m] for m in members])
            for member, entropy in zip(members, own, strict=True):
                found[member] = entropy
            advance(sum(len(each) for each in own))
        return found

    @torch.no_grad()
    def _of_bin(self, prompts: list[list[int]], completions: list[list[int]]) -> Entropies:
        """One packed forward."""
        count = len(prompts)
        batch = pack(
            prompts,
            completions=completions,
            prompt_of=range(count),
            accuracy=[0.0] * count,
            truncated=[False] * count,
            max_tokens=max(map(len, completions)),
        ).to(self.device)
        rows = torch.arange(batch.num_tokens, device=batch.trained.device)
        rollouts = torch.arange(count, device=batch.trained.device)
        stats = self._scorer.stats(batch, rollouts=rollouts, rows=rows)
        ends = np.cumsum([len(each) for each in completions])
        return list(np.split(stats.entropy.float().cpu().numpy(), ends[:-1]))


def _read(path: Path, key: bytes) -> Entropies | None:
    """What was kept under this key; None where there is nothing, or something else, or a damaged file."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return None
    if (table.schema.metadata or {}).get(_KEY) != key:
        return None
    return [np.asarray(each, dtype=np.float32) for each in table["entropy"].to_pylist()]
