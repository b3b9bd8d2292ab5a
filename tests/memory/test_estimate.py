"""Planned against measured: a step of a small run, whose tensors are counted while it trains."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tokensweep.compose import Frozen, freeze_run, register_components
from tokensweep.ledger import Attempt
from tokensweep.memory.device import Device
from tokensweep.memory.estimate import phases, work_of
from tokensweep.models import policy
from tokensweep.models.trainable import trainable_of
from tokensweep.train import metrics
from tokensweep.train.setup import optimizer_of
from tokensweep.train.trainer import run_training

sys.path.extend([str(Path(__file__).parent), str(Path(__file__).parents[1] / "train")])
importlib.import_module("easy_task")  # registers data=test_even
Tracker = importlib.import_module("tracker").Tracker

CPU = Device(name="a machine", memory_gb=20.0, ranks=1, on_cpu=True)

Compose = Callable[..., Frozen]


@pytest.fixture
def compose(tmp_path: Path) -> Compose:
    """A run of 1.6 million parameters; prompts have 2 tokens, completions 94."""
    register_components()
    given = (
        *("data=test_even", "data.max_tokens=94", "prompt.max_tokens=2", "eval.held_out=0", "steps=2"),
        *("model.hidden=128", "model.layers=6", "model.heads=4", "model.mlp=512", "model.steps=0"),
        *("method=grpo", "method.updates_per_batch=1", "compute.device=cpu", f"store={tmp_path}"),
        *("batch.prompts=6", "batch.group_size=8", "batch.micro_tokens=1536", "store_rollouts.every=0"),
    )
    return lambda *more: freeze_run([*given, *more])


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", ["false", "true"])
@pytest.mark.parametrize("trainable", ["full", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_takes_what_was_planned(
    compose: Compose,
    dtype: str,
    trainable: str,
    recomputed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(policy, "_eos_ids", lambda *_: (10**6,))  # no completion ends before its limit
    how = (f"compute.dtype={dtype}", f"trainable={trainable}")
    frozen, peaks = compose(*how, f"compute.activation_checkpointing={recomputed}"), dict[str, int]()
    tracker, plain = Tracker(), metrics.Stopwatch.phase

    @contextmanager
    def watched(self: Any, name: str) -> Iterator[None]:
        with tracker.phase(peaks, name), plain(self, name):
            yield

    monkeypatch.setattr(metrics.Stopwatch, "phase", watched)
    run_dir = tmp_path / "runs" / "r1"
    run_dir.mkdir(parents=True)
    with Attempt.open(run_dir, devices=1) as attempt, tracker:
        run_training(frozen, run_dir, attempt, cache=tmp_path / "models")

    planned = {phase.name: phase for phase in phases(work_of(frozen, CPU))}
    drawn = planned["rollout"].total - planned["rollout"].parts["cache while moved"]  # as no row ends
    assert drawn == pytest.approx(peaks["rollout"], rel=0.15)
    for name in ("old_pass", "update"):
        assert planned[name].total == pytest.approx(peaks[name], rel=0.15)


@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_weights_gradients_and_optimiser_are_planned_to_the_byte(
    compose: Compose, trainable: str, tmp_path: Path
) -> None:
    frozen = compose(f"trainable={trainable}")
    from tokensweep.registry import build

    source = build(frozen["data"])
    base = build(frozen["model"]).materialise(data=source, cache=tmp_path / "models")
    own = trainable_of(frozen).policy(base, checkpoint=None, seed=0)
    optimizer = optimizer_of(own, frozen["optim"])
    for parameter in own.trained.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    found = {phase.name: phase.parts for phase in phases(work_of(frozen, CPU))}["update"]
    states = [value for entry in optimizer.state.values() for value in entry.values()]
    assert found["weights"] == sum(p.nbytes for p in own.model.parameters())
    assert found["gradients"] == sum(p.grad.nbytes for p in own.trained.values() if p.grad is not None)
    assert found["optimiser state"] == sum(value.nbytes for value in states)


def test_a_forward_holds_a_whole_rollout_whatever_the_micro_batch(compose: Compose) -> None:
    assert work_of(compose("batch.micro_tokens=10"), CPU).forward == 2 + 94
    assert work_of(compose("batch.micro_tokens=500"), CPU).forward == 500
    assert work_of(compose("batch.micro_tokens=1000000"), CPU).forward == 48 * 96


def test_a_reference_model_is_there_in_every_phase(compose: Compose) -> None:
    plain = phases(work_of(compose(), CPU))
    with_reference = phases(work_of(compose("method=grpo_kl", "method.updates_per_batch=1"), CPU))
    for before, after in zip(plain, with_reference, strict=True):
        assert after.parts["reference weights"] == before.parts["weights"]


def test_hidden_states_are_there_until_the_update_where_the_method_reads_them(compose: Compose) -> None:
    # 48 rollouts of 94 tokens, 128 numbers of 4 bytes each; ranks add theirs up in a copy
    column = 48 * 94 * 128 * 4
    found = {phase.name: phase.parts for phase in phases(work_of(compose("method=shear"), CPU))}
    assert [name for name, parts in found.items() if "hidden states" in parts] == ["old_pass"]
    assert found["old_pass"]["hidden states"] == column
    assert found["old_pass"]["exchange"] == 0
    two = phases(work_of(compose("method=shear"), replace(CPU, ranks=2)))[1]
    assert two.parts["exchange"] == column
    half = phases(work_of(compose("method=shear", "compute.dtype=bfloat16"), CPU))[1]
    assert half.parts["hidden states"] == column / 2
    assert "hidden states" not in phases(work_of(compose(), CPU))[1].parts


def test_ranks_divide_nothing_but_rollouts(compose: Compose) -> None:
    # 65536 slots hold all 48 rollouts of 96 tokens on one rank; of four ranks each draws 12
    frozen, gpus = compose(), [replace(CPU, ranks=ranks, on_cpu=False) for ranks in (1, 4)]
    alone, four = ({phase.name: phase.parts for phase in phases(work_of(frozen, gpu))} for gpu in gpus)
    assert four["rollout"]["key-value cache"] * 4 == alone["rollout"]["key-value cache"]
    assert four["update"] == alone["update"]
    # of the largest tensor, 128 x 512, every number is compared as four integers
    assert four["sync"]["comparison"] == 32 * 128 * 512
    assert not alone["sync"].get("comparison")
