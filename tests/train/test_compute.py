"""How a run computes: what may change its memory, its speed and its rounding, but not what it learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tokensweep.compose import freeze_run
from tokensweep.identity import identity_of
from tokensweep.ledger import Attempt
from tokensweep.models.policy import Policy
from tokensweep.models.trainable import Full, Lora, Trainable
from tokensweep.problems.ops import Ops
from tokensweep.registry import build
from tokensweep.train import activations, trainer
from tokensweep.train.activations import recompute_layers
from tokensweep.train.passes import autocast
from tokensweep.train.setup import optimizer_of

Config = dict[str, Any]
Make = Callable[..., Config]

IDS = torch.arange(2, 62)
BOUNDS = torch.tensor([0, 7, 40, 60])
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, small_config: Make) -> Path:
    folder: Path = build(small_config()["model"]).materialise(
        data=Ops(), cache=tmp_path_factory.mktemp("models")
    )
    return folder


def train(config: Config, run_dir: Path) -> Path:
    with Attempt.open(run_dir) as attempt:
        return trainer.run_training(config, run_dir, attempt, cache=run_dir.parent / "models").checkpoint


@contextmanager
def kept_bytes() -> Iterator[list[int]]:
    """The sizes of the tensors that autograd keeps for the backward pass."""
    sizes: list[int] = []

    def pack(x: Tensor) -> Tensor:
        if not isinstance(x, torch.nn.Parameter):
            sizes.append(x.numel() * x.element_size())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield sizes


def gradients(policy: Policy, dtype: torch.dtype) -> tuple[dict[str, Tensor], int]:
    """Of some loss over packed sequences, and the bytes that the forward kept for them."""
    with kept_bytes() as sizes, autocast(policy, dtype):
        states = policy.hidden(IDS, BOUNDS)
    states.float().square().cumsum(0).sin().sum().backward()  # type: ignore[no-untyped-call]  # torch
    return {name: x.grad for name, x in policy.trained.items() if x.grad is not None}, sum(sizes)


@pytest.mark.parametrize("trainable", [Full(), Lora(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layers_that_are_run_again_give_the_same_gradients_from_less_memory(
    base: Path, trainable: Trainable, dtype: torch.dtype
) -> None:
    plain, again = (trainable.policy(base, checkpoint=None, seed=0) for _ in range(2))
    recompute_layers(again.model)
    expected, all_kept = gradients(plain, dtype)
    given, kept = gradients(again, dtype)
    assert len(expected) >= 2 * 7
    assert given.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(given[name], gradient), name
    assert kept < all_kept / 4, (kept, all_kept)


def test_layers_are_run_once_where_no_gradient_is_wanted(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(base)
    recompute_layers(policy.model)
    monkeypatch.setattr(activations, "checkpoint", None)  # whoever calls it fails
    with torch.no_grad():
        assert torch.equal(policy.hidden(IDS, BOUNDS), Policy(base).hidden(IDS, BOUNDS))


def test_a_model_without_layers_to_run_again_is_refused(base: Path) -> None:
    policy = Policy(base)
    policy.model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="layers that transformers can run again, but Linear has none"):
        recompute_layers(policy.model)


def test_a_run_that_keeps_less_ends_with_the_same_bits(
    tmp_path: Path, small_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(method__updates_per_batch=2)
    calls: list[bool] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["use_reentrant"])
        return checkpoint(*args, **kwargs)

    monkeypatch.setattr(activations, "checkpoint", spy)
    plain = train(config, tmp_path / "plain")
    assert not calls
    less = {**config, "compute": {**config["compute"], "activation_checkpointing": True}}
    again = train(less, tmp_path / "again")
    assert calls
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (again / name).read_bytes() == (plain / name).read_bytes()


def test_the_fused_optimiser_makes_the_step_of_the_plain_one(base: Path, small_config: Make) -> None:
    settings = {**small_config()["optim"], "weight_decay": 0.1}
    moved = []
    for fused in (True, False):
        policy = Policy(base)
        optimizer = optimizer_of(policy, settings, fused=fused)
        assert optimizer.defaults["fused"] is fused
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            for parameter in policy.trained.values():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        moved.append({name: x.detach() for name, x in policy.trained.items()})
    for name, weights in moved[0].items():
        torch.testing.assert_close(weights, moved[1][name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("fused", [True, False])
def test_the_setting_reaches_the_optimiser(
    tmp_path: Path, small_config: Make, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.optim.Optimizer] = []

    def spy(*args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        made.append(optimizer_of(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(trainer, "optimizer_of", spy)
    config = small_config(steps=1)
    train({**config, "compute": {**config["compute"], "fused_optimizer": fused}}, tmp_path / "run")
    assert [optimizer.defaults["fused"] for optimizer in made] == [fused]


def test_updates_below_the_spacing_of_bfloat16_add_up_in_a_run_that_computes_in_it(
    tmp_path: Path, small_config: Make
) -> None:
    # AdamW's first steps move a weight by about lr. Around 1 the numbers of bfloat16 are 2^-8 apart, so a
    # weight of 1.0 in it would stay where it is; in float32 they are 6e-8 apart.
    lr = 1e-6
    assert (torch.ones((), dtype=torch.bfloat16) - lr) == 1.0
    done = train(small_config(steps=3, compute__dtype="bfloat16", optim__lr=lr), tmp_path / "run")
    weights = load_file(done / "model.safetensors")
    assert {x.dtype for x in weights.values()} == {torch.float32}
    moves = (weights[NORM] - 1.0).abs()  # where a run starts all are 1
    assert float(moves.median()) == pytest.approx(2 * lr, rel=0.5)  # up to 3 lr, less where signs change
    assert bool((weights[NORM].bfloat16() == 1.0).all())
    states = load_file(done / "optimizer.safetensors")
    assert {x.dtype for x in states.values()} == {torch.float32}


def test_products_are_in_bfloat16_and_weights_and_gradients_in_float32(base: Path) -> None:
    policy = Policy(base)
    seen: list[torch.dtype] = []
    projection = policy.model.model.layers[0].self_attn.q_proj
    projection.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    found, _ = gradients(policy, torch.bfloat16)
    assert seen == [torch.bfloat16]
    assert {x.dtype for x in policy.trained.values()} == {x.dtype for x in found.values()} == {torch.float32}


def test_how_a_run_computes_is_no_part_of_its_identity() -> None:
    changed = freeze_run(["compute.activation_checkpointing=true", "compute.fused_optimizer=false"])
    assert identity_of(changed) == identity_of(freeze_run([]))
