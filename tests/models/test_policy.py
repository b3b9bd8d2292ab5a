"""The packed forward against transformers' own, one sequence at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tokensweep.models.head import Head
from tokensweep.models.policy import Policy

FolderOf = Callable[[str], Path]

RAGGED = (7, 3, 12, 1, 5)  # three groups of similar length: 12 and 7, 5 and 3, 1
EQUAL = (6, 6, 6)


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
def test_packed_logits_equal_those_of_each_sequence_alone(
    folder_of: FolderOf, architecture: str, lengths: tuple[int, ...]
) -> None:
    folder = folder_of(architecture)
    policy, ids = Policy(folder), tokens(sum(lengths))
    expected, _ = reference_logits(folder, ids, lengths)
    torch.testing.assert_close(policy.head.logits(policy.hidden(ids, bounds(lengths))), expected)


@pytest.mark.parametrize("lengths", [RAGGED, EQUAL], ids=str)
def test_gradients_of_the_packed_forward_equal_those_of_each_sequence_alone(
    folder_of: FolderOf, architecture: str, lengths: tuple[int, ...]
) -> None:
    folder = folder_of(architecture)
    policy, ids = Policy(folder), tokens(sum(lengths))
    expected, model = reference_logits(folder, ids, lengths)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    logits = policy.head.logits(policy.hidden(ids, bounds(lengths)))
    for table in (expected, logits):
        torch.autograd.backward(table, weights)
    wanted = {name: p.grad for name, p in model.named_parameters()}
    for name, parameter in policy.model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-3, rtol=1e-3)


def test_a_sequence_does_not_see_its_neighbours(folder_of: FolderOf, architecture: str) -> None:
    policy, ids = Policy(folder_of(architecture)), tokens(sum(RAGGED))
    other = ids.clone()
    other[7:10] = (ids[7:10] + 1) % 64  # the second of five
    states = [policy.hidden(x, bounds(RAGGED)).detach() for x in (ids, other)]
    for rows in (slice(0, 7), slice(10, None)):
        torch.testing.assert_close(states[0][rows], states[1][rows], rtol=0, atol=1e-6)
    assert float((states[0][7:10] - states[1][7:10]).abs().min(1).values.max()) > 1e-3


@pytest.mark.parametrize("name", ["llama_tied", "gemma2", "phi", "qwen3_moe"])
def test_bfloat16_weights_pass_the_same_forward(folder_of: FolderOf, name: str) -> None:
    policy = Policy(folder_of(name), dtype=torch.bfloat16)
    states = policy.hidden(tokens(8), bounds((5, 3)))
    assert states.dtype == torch.bfloat16
    assert bool(policy.head.logits(states).isfinite().all())


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


def test_a_saved_policy_loads_in_transformers_with_the_same_logits(
    folder_of: FolderOf, tmp_path: Path, architecture: str
) -> None:
    policy, ids = Policy(folder_of(architecture)), tokens(9)
    with torch.no_grad():
        for parameter in policy.model.parameters():  # weights that only the saved folder can hold
            parameter.mul_(1.1)
    policy.save(tmp_path / "saved")
    model, found = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved",
        attn_implementation="eager",  # transformers' SDPA leaves out the cap of Gemma2's scores
        output_loading_info=True,
    )
    assert not any(found.values())
    ours = policy.head.logits(policy.hidden(ids, bounds((9,))))
    torch.testing.assert_close(model(input_ids=ids[None]).logits[0], ours, rtol=1e-4, atol=1e-4)
    assert torch.equal(Policy(tmp_path / "saved").hidden(ids, bounds((9,))), policy.hidden(ids, bounds((9,))))


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
    assert dict(policy.merged_weights())["model.embed_tokens.weight"].eq(2.0).all()


def test_a_tied_head_is_trained_once(folder_of: FolderOf) -> None:
    trained = Policy(folder_of("llama_tied")).trained
    assert sum("embed" in name or "head" in name for name in trained) == 1


def test_decoded_completions_hold_no_special_tokens(folder_of: FolderOf) -> None:
    policy = Policy(folder_of("qwen3"))
    assert policy.decode((*policy.tokenizer.encode("3+4=7"), 1)) == "3+4=7"


@pytest.mark.parametrize(
    ("name", "scale", "softcap", "with_bias"),
    [
        ("llama_tied", 1.0, None, False),
        ("gemma2", 1.0, 5.0, False),
        ("granite", 1 / 2, None, False),
        ("cohere", 1 / 4, None, False),
        ("minicpm3", 1 / 2, None, False),  # hidden size 24 over dim_model_base 12
        ("phi", 1.0, None, True),
    ],
)
def test_the_head_says_what_a_model_does_to_its_logits(
    folder_of: FolderOf, name: str, scale: float, softcap: float | None, with_bias: bool
) -> None:
    head = Policy(folder_of(name)).head
    assert (head.scale, head.softcap, head.bias is not None) == (scale, softcap, with_bias)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hyperclovax", "those of HyperCLOVAXForCausalLM differ by 75.0% of the largest"),  # 1/2 against 2
        ("gpt_oss", "GptOssAttention has attention sinks, which are not supported"),
        ("llama4", "got chunked_attention: choose another architecture"),
    ],
)
def test_a_model_that_does_what_nobody_here_knows_is_refused(
    folder_of: FolderOf, name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Policy(folder_of(name))


def test_a_cap_that_small_logits_would_not_show_is_found(
    folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of("gemma2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "final_logit_softcapping": 1000.0}))
    monkeypatch.setattr("tokensweep.models.policy.head_of", lambda model: Head(weight=model.lm_head.weight))
    # Logits of about 5 under a cap of 1000 are wrong by 8e-6, which is noise; those of 100 by 3e-3.
    with pytest.raises(ValueError, match=r"differ by 0\.3% of the largest"):
        Policy(folder)


def test_a_window_that_only_the_layers_or_only_the_mask_knows_is_found(folder_of: FolderOf) -> None:
    # OLMoE hands a window to its attention but makes a mask without one: flash and plain attention disagree.
    folder = folder_of("olmoe")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": 4096}))
    with pytest.raises(ValueError, match=r"logits must be .* of causal attention, but those of Olmoe"):
        Policy(folder)


def test_windows_are_as_wide_as_before_once_a_model_is_loaded(folder_of: FolderOf) -> None:
    model = Policy(folder_of("gemma3")).model
    assert [layer.self_attn.sliding_window for layer in model.model.layers] == [4, None, 4]
    assert model.config.sliding_window == 4


def test_only_the_chosen_experts_are_trained_and_the_router_with_them(folder_of: FolderOf) -> None:
    policy = Policy(folder_of("qwen3_moe"))
    torch.autograd.backward(policy.hidden(tokens(1), bounds((1,))).pow(2).sum())
    layer = policy.model.model.layers[0].mlp
    trained = [bool(grad.any()) for grad in layer.experts.down_proj.grad]
    assert sum(trained) == 2  # of four
    assert bool(layer.gate.weight.grad.any())


def test_weights_of_another_architecture_are_refused_by_name(folder_of: FolderOf) -> None:
    llama, qwen = folder_of("llama_tied"), folder_of("qwen3")
    shutil.copy(llama / "model.safetensors", qwen)
    norms = (
        r"missing model\.layers\.0\.self_attn\.k_norm\.weight, .* and 1 more: put config\.json and weights"
    )
    with pytest.raises(ValueError, match=f"all weights of a Qwen3ForCausalLM .* {norms}"):
        Policy(qwen)


def test_weights_that_the_architecture_has_no_use_for_are_refused(folder_of: FolderOf) -> None:
    llama, qwen = folder_of("llama_tied"), folder_of("qwen3")
    shutil.copy(qwen / "model.safetensors", llama)  # all of a Llama is there, and norms that it would drop
    with pytest.raises(ValueError, match=r"left over model\.layers\.0\.self_attn\.k_norm\.weight"):
        Policy(llama)


def test_weights_of_another_size_are_refused_with_both_shapes(folder_of: FolderOf) -> None:
    folder = folder_of("qwen3")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    shapes = r"of another shape model\.layers\.0\.mlp\.down_proj\.weight \(\[24, 40\], not \[24, 48\]\)"
    with pytest.raises(ValueError, match=shapes):
        Policy(folder)


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
