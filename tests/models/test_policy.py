"""The packed forward against transformers' own, one sequence at a time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tokensweep.models.policy import Policy

FolderOf = Callable[[str], Path]

RAGGED = (7, 3, 12, 1, 5)  # three groups of similar length: 12 and 7, 5 and 3, 1
EQUAL = (6, 6, 6)
ARCHITECTURES = ["qwen3", "llama_tied", "llama_untied"]


def tokens(count: int) -> Tensor:
    return torch.randint(2, 64, (count,), generator=torch.Generator().manual_seed(1))


def bounds(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])


def reference_logits(folder: Path, ids: Tensor, lengths: tuple[int, ...]) -> tuple[Tensor, torch.nn.Module]:
    """Logits of every sequence on its own, by an untouched transformers model."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    edges = bounds(lengths).tolist()
    parts = [ids[start:end] for start, end in pairwise(edges)]
    return torch.cat([model(input_ids=part[None]).logits[0] for part in parts]), model


@pytest.mark.parametrize("lengths", [RAGGED, EQUAL, (9,)], ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_logits_equal_those_of_each_sequence_alone(
    folder_of: FolderOf, architecture: str, lengths: tuple[int, ...]
) -> None:
    folder = folder_of(architecture)
    policy, ids = Policy(folder), tokens(sum(lengths))
    expected, _ = reference_logits(folder, ids, lengths)
    torch.testing.assert_close(policy.hidden(ids, bounds(lengths)) @ policy.head_weight.T, expected)


@pytest.mark.parametrize("lengths", [RAGGED, EQUAL], ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_of_the_packed_forward_equal_those_of_each_sequence_alone(
    folder_of: FolderOf, architecture: str, lengths: tuple[int, ...]
) -> None:
    folder = folder_of(architecture)
    policy, ids = Policy(folder), tokens(sum(lengths))
    expected, model = reference_logits(folder, ids, lengths)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    logits = policy.hidden(ids, bounds(lengths)) @ policy.head_weight.T
    for table in (expected, logits):
        torch.autograd.backward(table, weights)
    wanted = {name: p.grad for name, p in model.named_parameters()}
    for name, parameter in policy.model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-3, rtol=1e-3)


def test_a_sequence_does_not_see_its_neighbours(folder_of: FolderOf) -> None:
    policy, ids = Policy(folder_of("qwen3")), tokens(10)
    other = ids.clone()
    other[:4] = (ids[:4] + 1) % 64
    states = [policy.hidden(x, torch.tensor([0, 4, 10])).detach() for x in (ids, other)]
    assert torch.equal(states[0][4:], states[1][4:])
    assert not torch.equal(states[0][:4], states[1][:4])


def test_bfloat16_weights_pass_the_same_forward(folder_of: FolderOf) -> None:
    policy = Policy(folder_of("llama_tied"), dtype=torch.bfloat16)
    states = policy.hidden(tokens(8), bounds((5, 3)))
    assert states.dtype == torch.bfloat16
    assert bool(states.isfinite().all())


@pytest.mark.parametrize(("edges", "message"), [([0, 5], "run from 0 to 8"), ([0, 3, 3, 8], "must increase")])
def test_bounds_that_do_not_fit_the_tokens_are_refused(
    folder_of: FolderOf, edges: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Policy(folder_of("qwen3")).hidden(tokens(8), torch.tensor(edges))


def test_the_head_is_the_embedding_where_the_model_ties_them(folder_of: FolderOf) -> None:
    tied, untied = Policy(folder_of("llama_tied")), Policy(folder_of("llama_untied"))
    assert tied.head_weight is tied.model.get_input_embeddings().weight
    assert untied.head_weight is not untied.model.get_input_embeddings().weight
    assert (tied.vocab_size, tied.hidden_size, tied.eos_ids) == (64, 24, (1,))


def test_a_saved_policy_loads_with_the_same_states(folder_of: FolderOf, tmp_path: Path) -> None:
    policy, ids = Policy(folder_of("qwen3")), tokens(6)
    policy.save(tmp_path / "saved")
    again = Policy(tmp_path / "saved")
    edges = torch.tensor([0, 6])
    assert torch.equal(again.hidden(ids, edges), policy.hidden(ids, edges))


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "mixtral"])
def test_merged_weights_are_those_of_the_checkpoint(folder_of: FolderOf, architecture: str) -> None:
    folder = folder_of(architecture)
    expected = load_file(folder / "model.safetensors")
    given = list(Policy(folder).merged_weights())
    assert sorted(name for name, _ in given) == sorted(expected)  # each once, a tied head not at all
    for name, tensor in given:
        assert torch.equal(tensor, expected[name])
        assert not tensor.requires_grad


def test_merged_weights_follow_the_policy(folder_of: FolderOf) -> None:
    policy = Policy(folder_of("llama_tied"))
    with torch.no_grad():
        policy.head_weight.fill_(2.0)
    assert dict(policy.merged_weights())["model.embed_tokens.weight"].unique().tolist() == [2.0]


def test_a_tied_head_is_trained_once(folder_of: FolderOf) -> None:
    trained = Policy(folder_of("llama_tied")).trained
    assert sum("embed" in name or "head" in name for name in trained) == 1


def test_decoded_completions_hold_no_special_tokens(folder_of: FolderOf) -> None:
    policy = Policy(folder_of("qwen3"))
    assert policy.decode((*policy.tokenizer.encode("3+4=7"), 1)) == "3+4=7"


def test_a_model_that_scales_its_logits_is_refused(folder_of: FolderOf) -> None:
    with pytest.raises(ValueError, match=r"logits must be hidden @ weight\.T"):
        Policy(folder_of("granite_scaled"))


def test_a_head_with_a_bias_is_refused(folder_of: FolderOf) -> None:
    with pytest.raises(ValueError, match="must have no bias"):
        Policy(folder_of("phi_with_bias"))


def test_a_model_with_a_window_is_refused(folder_of: FolderOf) -> None:
    with pytest.raises(ValueError, match="every layer must attend to the whole sequence"):
        Policy(folder_of("qwen3_windowed"))


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "no config"), ("model.safetensors", "no weights"), ("tokenizer*", "no tokenizer")],
)
def test_an_incomplete_folder_is_refused(folder_of: FolderOf, missing: str, message: str) -> None:
    folder = folder_of("qwen3")
    for file in list(folder.glob(missing)):
        file.unlink()
    with pytest.raises(ValueError, match=message):
        Policy(folder)
