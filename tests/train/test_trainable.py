"""Runs that train adapters beside frozen weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tokensweep.compose import freeze_run
from tokensweep.identity import identity_of
from tokensweep.ledger import Attempt, read_metrics
from tokensweep.models.policy import Policy
from tokensweep.registry import build
from tokensweep.train.checkpoint import newest_checkpoint
from tokensweep.train.trainer import PreemptedError, TrainResult, run_training

Config = dict[str, Any]
Make = Callable[..., Config]

LORA = {"_component_": "trainable/lora", "rank": 4, "alpha": 8}
FILES = (
    "model.safetensors",
    "optimizer.safetensors",
    "adapter/adapter_model.safetensors",
    "adapter/adapter_config.json",
)


def train(config: Config, run_dir: Path, *, stops: Sequence[bool] = ()) -> TrainResult:
    answers = iter(stops)
    with Attempt.open(run_dir) as attempt:
        return run_training(
            config,
            run_dir,
            attempt,
            cache=run_dir.parent / "models",
            should_stop=lambda: next(answers, False),
        )


def lora_config(small_config: Make, **changes: Any) -> Config:
    return {**small_config(**changes), "trainable": LORA}


def test_adapters_learn_a_task_that_is_easy_to_learn(tmp_path: Path, small_config: Make) -> None:
    # A random head is frozen, too: 20 times as large it can say something definite, which is wrong at first.
    config = lora_config(
        small_config,
        steps=16,
        data={"_component_": "data/test_even", "size": 8},
        sampling__max_tokens=2,
        checkpoint__every=16,
    )
    policy = Policy(build(config["model"]).materialise(data=build(config["data"]), cache=tmp_path))
    with torch.no_grad():
        policy.head_weight.mul_(20)
    policy.save(tmp_path / "sharp")
    config["model"] = {"_component_": "model/hf", "path": str(tmp_path / "sharp"), "chat": False}
    config["batch"] = {"prompts": 16, "group_size": 8, "micro_tokens": 1024}
    train(config, tmp_path / "run")
    rewards = [row["metrics"]["reward"] for row in read_metrics(tmp_path / "run")]
    assert rewards[0] < 0.1
    assert sum(rewards[-3:]) / 3 > 0.6  # of 384 rollouts: the standard error is below 3 points


def test_a_run_that_was_stopped_goes_on_to_the_bits_of_one_that_was_not(
    tmp_path: Path, small_config: Make
) -> None:
    config = lora_config(small_config, steps=4, method__updates_per_batch=2)
    whole = train(config, tmp_path / "whole")
    with pytest.raises(PreemptedError):
        train(config, tmp_path / "parts", stops=(False, True))
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step-000001"]
    parts = train(config, tmp_path / "parts")
    for name in FILES:
        assert (parts.checkpoint / name).read_bytes() == (whole.checkpoint / name).read_bytes()


def test_a_checkpoint_holds_a_plain_model_with_the_frozen_weights_as_they_were(
    tmp_path: Path, small_config: Make
) -> None:
    done = train(lora_config(small_config), tmp_path / "run")
    base = load_file(next((tmp_path / "models").glob("*/model.safetensors")))
    now = load_file(done.checkpoint / "model.safetensors")
    assert now.keys() == base.keys()
    changed = {name for name in base if not torch.equal(now[name], base[name])}
    assert len(changed) == 2 * 7  # seven matrices in each of two layers
    assert all("_proj" in name for name in changed)
    assert "model.layers.0.self_attn.q_proj.weight" in Policy(done.checkpoint).trained


def test_the_optimiser_has_a_state_for_the_adapters_alone(tmp_path: Path, small_config: Make) -> None:
    done = train(lora_config(small_config), tmp_path / "run")
    states = load_file(done.checkpoint / "optimizer.safetensors")
    assert len(states) == 3 * 2 * 2 * 7  # step and two moments, of A and B
    assert all(".lora_" in name for name in states)


def test_a_torn_adapter_is_noticed(tmp_path: Path, small_config: Make) -> None:
    done = train(lora_config(small_config), tmp_path / "run")
    torn = done.checkpoint / "adapter" / "adapter_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-20])
    notes: list[str] = []
    assert newest_checkpoint(done.checkpoint.parent, owner="any", note=notes.append) is None
    assert "adapter/adapter_model.safetensors is not what was written" in notes[0]


def test_the_identity_names_adapters_and_nothing_where_all_is_trained() -> None:
    assert "trainable" not in identity_of(freeze_run([]))
    assert identity_of(freeze_run(["trainable=full"])) == identity_of(freeze_run([]))
    assert identity_of(freeze_run(["trainable=lora"]))["trainable"] == {"_component_": "trainable/lora"}
    ranked = identity_of(freeze_run(["trainable=lora", "trainable.rank=8"]))
    assert ranked["trainable"] == {"_component_": "trainable/lora", "rank": 8}


def test_a_rank_of_0_is_refused_before_the_start() -> None:
    with pytest.raises(ValueError, match=r"trainable .trainable/lora.: rank must be at least 1"):
        freeze_run(["trainable=lora", "trainable.rank=0"])
