"""Adapters: what they start from, what they are trained by, and what others see of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tokensweep.models.policy import Policy
from tokensweep.models.trainable import Full, Lora, trainable_of

FolderOf = Callable[[str], Path]

IDS = torch.tensor([5, 9, 2, 33, 7, 8, 11, 60])
BOUNDS = torch.tensor([0, 3, 8])
Q = "model.layers.0.self_attn.q_proj"


def new(base: Path, *, seed: int = 0, **settings: Any) -> Any:
    return Lora(**{"rank": 4, "alpha": 8, **settings}).policy(base, checkpoint=None, seed=seed)


def moved(policy: Any) -> Any:
    """The policy with adapters that are far from 0."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.trained.values():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return policy


def states(policy: Policy) -> Tensor:
    return policy.hidden(IDS, BOUNDS)


def test_a_run_starts_from_the_states_of_the_base_model(folder_of: FolderOf, architecture: str) -> None:
    folder = folder_of(architecture)
    assert torch.equal(states(new(folder)), states(Policy(folder)))


def test_merged_weights_are_named_as_in_the_checkpoint_of_the_base(
    folder_of: FolderOf, architecture: str
) -> None:
    folder = folder_of(architecture)
    given, base = dict(moved(new(folder)).merged_weights()), load_file(folder / "model.safetensors")
    assert given.keys() == base.keys()
    changed = {name for name in base if not torch.equal(given[name], base[name])}
    assert any(".self_attn." in name for name in changed)
    assert not any("norm" in name or "embed" in name or "head" in name for name in changed)


@pytest.mark.parametrize(("stabilised", "scale"), [(False, 2.0), (True, 4.0)])  # 8 / 4 and 8 / sqrt(4)
def test_a_merged_weight_is_the_base_and_the_scaled_product(
    folder_of: FolderOf, stabilised: bool, scale: float
) -> None:
    folder = folder_of("qwen3")
    policy = moved(new(folder, rank_stabilised=stabilised))
    a, b = (policy.trained[f"{Q}.lora_{letter}.default.weight"] for letter in "AB")
    expected = load_file(folder / "model.safetensors")[f"{Q}.weight"] + scale * b @ a
    torch.testing.assert_close(dict(policy.merged_weights())[f"{Q}.weight"], expected)


def test_a_saved_policy_is_a_plain_model_that_computes_the_same(
    folder_of: FolderOf, architecture: str, tmp_path: Path
) -> None:
    policy = moved(new(folder_of(architecture)))
    before = states(policy)
    policy.save(tmp_path / "saved")
    torch.testing.assert_close(states(Policy(tmp_path / "saved")), before, rtol=1e-4, atol=1e-4)
    assert torch.equal(states(policy), before)  # merging has not touched it


def test_a_saved_adapter_is_read_by_peft(folder_of: FolderOf, tmp_path: Path) -> None:
    folder = folder_of("llama_untied")
    policy = moved(new(folder))
    policy.adapter(tmp_path / "adapter")
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter")
    logits = model(input_ids=IDS[None, :3]).logits[0]
    torch.testing.assert_close(logits, states(policy)[:3] @ policy.head_weight.T, rtol=1e-4, atol=1e-4)


def test_a_policy_comes_back_bit_for_bit(folder_of: FolderOf, tmp_path: Path) -> None:
    folder = folder_of("qwen3")
    policy = moved(new(folder))
    policy.save(tmp_path / "saved")
    again = Lora(rank=4, alpha=8).policy(folder, checkpoint=tmp_path / "saved", seed=1)
    assert torch.equal(states(again), states(policy))


def test_adapters_of_another_base_model_are_refused(folder_of: FolderOf, tmp_path: Path) -> None:
    new(folder_of("llama_tied")).save(tmp_path / "saved")
    with pytest.raises(ValueError, match="must belong to the base model's weights"):
        Lora(rank=4, alpha=8).policy(folder_of("qwen3"), checkpoint=tmp_path / "saved", seed=0)


def test_adapters_for_other_targets_are_refused(folder_of: FolderOf, tmp_path: Path) -> None:
    new(folder_of("qwen3"), targets=("q_proj",)).save(tmp_path / "saved")
    with pytest.raises(ValueError, match="must hold an A and a B per target"):
        Lora(rank=4, alpha=8).policy(folder_of("qwen3"), checkpoint=tmp_path / "saved", seed=0)


def test_the_start_depends_on_the_seed_alone(folder_of: FolderOf) -> None:
    folder = folder_of("qwen3")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = new(folder).trained
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = new(folder).trained, new(folder, seed=1).trained
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[f"{Q}.lora_A.default.weight"], other[f"{Q}.lora_A.default.weight"])


def test_a_is_uniform_within_one_over_the_root_of_its_inputs_and_b_is_0(folder_of: FolderOf) -> None:
    trained = new(folder_of("qwen3"), rank=64).trained
    a, b = (trained[f"{Q}.lora_{letter}.default.weight"].detach() for letter in "AB")
    assert a.shape == (64, 24)
    limit = 24**-0.5
    assert 0.98 * limit < float(a.abs().max()) <= limit  # 1536 draws: the largest misses 2 % once in e^31
    assert float(a.std()) == pytest.approx(limit / 3**0.5, rel=0.05)  # standard error 1 %
    assert not b.any()


def test_only_adapters_are_trained(folder_of: FolderOf) -> None:
    policy = new(folder_of("qwen3"))
    assert len(policy.trained) == 2 * 7 * 2  # A and B of seven matrices in each of two layers
    states(policy).sum().backward()  # type: ignore[no-untyped-call]  # torch
    assert {name for name, x in policy.model.named_parameters() if x.grad is not None} == set(policy.trained)


def test_gradients_are_those_of_the_merged_weight(folder_of: FolderOf, tmp_path: Path) -> None:
    # W = W0 + s B A, so dB = s dW A^T and dA = s B^T dW
    policy = moved(new(folder_of("qwen3")))
    policy.save(tmp_path / "saved")
    plain = Policy(tmp_path / "saved")
    for each in (policy, plain):
        states(each).square().sum().backward()  # type: ignore[no-untyped-call]  # torch
    d_weight = plain.trained[f"{Q}.weight"].grad
    a, b = (policy.trained[f"{Q}.lora_{letter}.default.weight"] for letter in "AB")
    assert d_weight is not None
    torch.testing.assert_close(b.grad, 2.0 * d_weight @ a.T, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(a.grad, 2.0 * b.T @ d_weight, rtol=1e-3, atol=1e-3)


def test_targets_can_be_named(folder_of: FolderOf) -> None:
    trained = new(folder_of("qwen3"), targets=("q_proj", "model.layers.1.mlp.up_proj")).trained
    layers = {name.partition(".lora_")[0] for name in trained}
    assert layers == {Q, "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"}


@pytest.mark.parametrize("target", ["nothing", "lm_head", "embed_tokens", "norm"])
def test_targets_that_are_no_layers_below_the_head_are_refused(folder_of: FolderOf, target: str) -> None:
    with pytest.raises(ValueError, match=f"no {target}: it has down_proj, gate_proj, k_proj"):
        new(folder_of("llama_untied"), targets=(target,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"alpha": 0}, "alpha must be at least 1, got 0"),
        ({"targets": ()}, "targets must be at least 1, got 0"),
        ({"targets": ("all-linear", "q_proj")}, "all-linear alone or names"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lora(**settings)


def test_everything_is_trained_where_a_config_does_not_say(folder_of: FolderOf) -> None:
    assert trainable_of({}) == trainable_of({"trainable": {"_component_": "trainable/full"}}) == Full()
    policy = Full().policy(folder_of("qwen3"), checkpoint=None, seed=0)
    assert list(policy.trained) == [name for name, _ in policy.model.named_parameters()]
