"""Metrics of an optimiser batch: every rate has a declared denominator, so packing cannot move it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.objective import Prepared
from tokensweep.loss.slots import Policy as PolicyOf
from tokensweep.loss.tables import MAX_LOG_RATIO, RULED, Batch
from tokensweep.train.collect import Collected, accuracies
from tokensweep.train.ranks import ALONE, Ranks

DENOMINATORS: Mapping[str, str] = {
    "reward": "rollouts trained on",
    "accuracy": "rollouts trained on; the raw grade, before reward shaping",
    "sampled/accuracy": "all rollouts sampled in the step, those of discarded groups included",
    "sampled/zero_variance_groups": "all groups sampled in the step",
    "sampled/grader_errors": "all rollouts sampled in the step",
    "sampled/discarded_groups": "a count of groups, no rate",
    "sampled/rounds": "a count of sampling rounds, no rate",
    "sampled/dropped_prompts": "a count of problems longer than prompt.max_tokens, no rate",
    "length/mean": "rollouts trained on; completion tokens, end token included",
    "length/max": "the longest rollout trained on",
    "truncated_fraction": "rollouts trained on",
    "entropy/mean": "tokens trained on; nats, policy before the update, at the sampling temperature",
    "entropy/p50": "tokens trained on",
    "entropy/p80": "tokens trained on",
    "entropy/p95": "tokens trained on",
    "mismatch/mean_abs": "tokens trained on, but of rollouts drawn by a rule; |sampler - trainer| nats",
    "mismatch/max": "the largest such difference",
    "mismatch/kl": "likewise; k3 estimate of KL(sampler || trainer), nats",
    "mismatch/max_ratio": "the largest ratio of the trainer's to the sampler's probability, exp(20) at most",
    "mismatch/beyond_2x": "likewise; those whose such ratio lies outside [1/2, 2]",
    "active_fraction": "tokens trained on; those that can carry a gradient",
    "grad_norm": "optimiser steps of the batch; before clipping; 0 without a step",
    "lr": "learning rate of the step",
    "updates": "a count of optimiser steps, no rate",
    "skipped_updates": "a count of mini-batches without a token that carries gradient, no rate",
    "tokens/generated": "completion tokens sampled in the step, discarded groups included",
    "tokens/trained": "completion tokens trained on",
    "tokens/updated": "completion tokens of the rollouts with a token that can carry a gradient",
    "tokens/total_generated": "completion tokens sampled since the start of the run",
    "loss/clip_fraction": "tokens with weight and advantage; their ratio is limited by the surrogate",
    "loss/ratio": "tokens with weight and advantage",
    "loss/approx_kl": "tokens with weight and advantage; nats, old against current policy",
    "loss/signal_fraction": "tokens trained on; those with weight and advantage",
    "loss/kept_fraction": "tokens trained on; those with a weight that is not 0",
    "loss/kept_entropy_fraction": "entropy of the tokens trained on; no weights of the current policy",
}
_PER_S = "of all ranks, per wall second of the slowest; not part of a run's results"
FAMILIES: Mapping[str, str] = {
    "loss/regularizer/": "penalty of a mini-batch as it enters the loss; mean over mini-batches",
    "method/": "what a part of the method tells of itself, under its key; see tokensweep methods NAME",
    "probe/": "what a probe of the method tells of the batch, under its key; see tokensweep methods NAME",
    "memory/": "what a component remembers after this step, such as an adaptive coefficient",
    "schedule/": "value of a scheduled hyper-parameter in this step",
    "time/": "wall seconds of rank 0; not part of a run's results",
    "throughput/generate_tokens_per_s": f"completion tokens sampled, discarded groups included; {_PER_S}",
    "throughput/score_tokens_per_s": f"completion tokens that the old policy scored; {_PER_S}",
    "throughput/update_tokens_per_s": f"completion tokens trained on; {_PER_S}",
    "throughput/mfu": "peak FLOPs of all GPUs while they updated; only on a GPU whose peak is known",
}
WALL_CLOCK = ("time/", "throughput/")  # what a clock decided: the same run again has other values

_PERCENTILES = (50, 80, 95)
_IN_PHASE = "in the phase "


def sampling_metrics(collected: Collected) -> dict[str, float]:
    """What sampling gave, before groups were discarded; no rates where a step drew nothing."""
    own = {f"method/{name}": value for name, value in collected.metrics.items()}
    if not collected.sampled:
        return {"sampled/rounds": 0.0, "tokens/generated": 0.0, **own}
    grades = [trial.grade for group in collected.sampled for trial in group]
    constant = [bool((accuracies(group) == accuracies(group)[0]).all()) for group in collected.sampled]
    return {
        "sampled/accuracy": sum(grade.accuracy for grade in grades) / len(grades),
        "sampled/zero_variance_groups": sum(constant) / len(constant),
        "sampled/grader_errors": sum(grade.outcome == "error" for grade in grades) / len(grades),
        "sampled/discarded_groups": float(len(collected.sampled) - len(collected.kept)),
        "sampled/rounds": float(collected.rounds),
        "tokens/generated": float(generated_tokens(collected)),
        **own,
    }


def generated_tokens(collected: Collected) -> int:
    """Completion tokens of everything that was sampled."""
    return sum(len(trial.rollout.completion_ids) for group in collected.sampled for trial in group)


def batch_metrics(batch: Batch) -> dict[str, float]:
    """Rewards, grades and lengths of the rollouts that are trained on."""
    lengths = batch.lengths.float()
    return {
        "reward": float(batch.rewards.mean()),
        "accuracy": float(batch.accuracy.mean()),
        "length/mean": float(lengths.mean()),
        "length/max": float(lengths.max()),
        "truncated_fraction": float(batch.truncated.float().mean()),
        "tokens/trained": float(batch.num_tokens),
    }


def policy_metrics(prepared: Prepared) -> dict[str, float]:
    """Entropy of the policy before its update, and the share of tokens that can move it."""
    entropy = prepared.batch.columns["old_entropy"]
    return {
        "entropy/mean": float(entropy.mean()),
        **{f"entropy/p{q}": percentile(entropy, q) for q in _PERCENTILES},
        "active_fraction": float(prepared.active.float().mean()),
        "tokens/updated": float(_updated_tokens(prepared)),
    }


def _updated_tokens(prepared: Prepared) -> int:
    batch = prepared.batch
    return int(batch.lengths[batch.by_rollout(prepared.active.long()) > 0].sum())


def kept_metrics(method: Method, prepared: Prepared) -> dict[str, float]:
    """Share of the old policy's entropy on tokens with a weight; nothing where weights come in the update."""
    if method.token_weights_of(PolicyOf.current):
        return {}
    entropy = prepared.batch.columns["old_entropy"]
    kept = torch.where(prepared.weights != 0, entropy, 0.0)
    total = float(entropy.sum())
    return {"loss/kept_entropy_fraction": float(kept.sum()) / total} if total else {}


def mismatch_metrics(batch: Batch) -> dict[str, float]:
    """How far the sampler's log-probabilities are from the trainer's; both must be of the full vocabulary.

    Rollouts drawn by a rule are left out, whose sampler had another distribution; nothing where all were.

    With r the trainer's probability of a token over the sampler's, ``kl`` is the mean of ``r - 1 - log r``:
    k3, never negative, and unbiased for KL(sampler || trainer) as the sampler drew the tokens.
    """
    log_ratio = batch.columns["old_logprobs"].double() - batch.columns["sampler_logprobs"].double()
    if RULED in batch.facts:
        log_ratio = log_ratio[batch.facts[RULED][batch.rollout_of] == 0]
    if log_ratio.numel() == 0:
        return {}
    gap = log_ratio.abs()
    held = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return {
        "mismatch/mean_abs": float(gap.mean()),
        "mismatch/max": float(gap.max()),
        "mismatch/kl": float((held.expm1() - held).mean()),
        "mismatch/max_ratio": float(held.max().exp()),
        "mismatch/beyond_2x": float((gap > math.log(2)).double().mean()),
    }


def percentile(values: Tensor, percent: int) -> float:
    """The smallest of ``values`` [N] that at least ``percent`` percent of them do not exceed."""
    rank = -(-percent * values.numel() // 100)
    return float(values.sort().values[max(rank, 1) - 1])


class Sums:
    """Numerators and denominators by name, added up over the micro-batches of a step."""

    def __init__(self, family: str) -> None:
        self._family = family
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, terms: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add one micro-batch's (sum, count) pairs."""
        for name, (total, count) in terms.items():
            before = self._sums.get(name, (torch.zeros_like(total), torch.zeros_like(count)))
            self._sums[name] = (before[0] + total, before[1] + count)

    def ratios(self, ranks: Ranks = ALONE) -> dict[str, float]:
        """Sum over count as ``<family>/<name>``, of all ranks; names whose count is zero are left out."""
        pairs: dict[str, tuple[float, float]] = {}
        own = {name: (float(total), float(count)) for name, (total, count) in self._sums.items()}
        for part in ranks.gather(own):
            for name, (total, count) in part.items():
                before = pairs.get(name, (0.0, 0.0))
                pairs[name] = (before[0] + total, before[1] + count)
        return {
            f"{self._family}/{name}": total / count for name, (total, count) in pairs.items() if count != 0
        }


def phase_of(error: BaseException) -> str | None:
    """The phase of a step in which an error was raised, as the stopwatch names it; None: in none."""
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(_IN_PHASE)]
    return notes[-1].removeprefix(_IN_PHASE) if notes else None  # the outermost, as it was left last


class Stopwatch:
    """Wall seconds by phase. An error that leaves a phase is told in which it was, see :func:`phase_of`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time inside the block to ``time/<name>_s``."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            error.add_note(f"{_IN_PHASE}{name}")
            raise
        finally:
            key = f"time/{name}_s"
            self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - start
