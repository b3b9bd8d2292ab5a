"""Checkpoints: complete or absent, of this run or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokensweep.models.policy import Policy
from tokensweep.problems.ops import Ops
from tokensweep.registry import build
from tokensweep.train.checkpoint import Progress, load_optimizer, newest_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory, small_config: Callable[..., dict[str, Any]]) -> Policy:
    model = build(small_config()["model"])
    return Policy(model.materialise(data=Ops(), cache=tmp_path_factory.mktemp("models")))


def stepped(policy: Policy) -> torch.optim.Optimizer:
    """An optimiser that has a state for every parameter."""
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=0.0)
    for index, parameter in enumerate(policy.model.parameters()):
        parameter.grad = torch.full_like(parameter, float(index + 1))
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def save(root: Path, policy: Policy, *, step: int, keep: int = 9, owner: str = "me") -> Path:
    progress = Progress(step=step, position=3 * step, updates=2 * step, generated_tokens=100 * step)
    return save_checkpoint(
        root, policy=policy, optimizer=stepped(policy), progress=progress, owner=owner, keep=keep
    )


def silent(message: str) -> None:
    raise AssertionError(f"nothing should be noted, got {message}")


def test_the_newest_checkpoint_is_found_with_its_progress(tmp_path: Path, policy: Policy) -> None:
    save(tmp_path, policy, step=9)
    save(tmp_path, policy, step=10)
    found = newest_checkpoint(tmp_path, owner="me", note=silent)
    assert found is not None
    assert found.folder.name == "step-000010"
    assert found.progress == Progress(step=10, position=30, updates=20, generated_tokens=1000)
    assert found.threads == torch.get_num_threads()


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nowhere", owner="me", note=silent) is None


def test_the_optimiser_state_comes_back_bit_for_bit(tmp_path: Path, policy: Policy) -> None:
    folder = save(tmp_path, policy, step=1)
    fresh = torch.optim.AdamW(policy.model.parameters(), lr=0.0)
    load_optimizer(folder, policy=policy, optimizer=fresh)
    expected = stepped(policy).state_dict()["state"]
    loaded = fresh.state_dict()["state"]
    assert loaded.keys() == expected.keys()
    for index, entry in expected.items():
        assert all(torch.equal(loaded[index][key], value) for key, value in entry.items())


def test_a_checkpoint_loads_as_a_hugging_face_model(tmp_path: Path, policy: Policy) -> None:
    folder = save(tmp_path, policy, step=1)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(model.get_output_embeddings().weight, policy.head_weight)
    assert AutoTokenizer.from_pretrained(folder).encode("1+2") == policy.tokenizer.encode("1+2")


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path, policy: Policy) -> None:
    for step in (2, 4, 6):
        save(tmp_path, policy, step=step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000004", "step-000006"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "config.json"])
def test_a_checkpoint_with_a_torn_file_is_skipped_with_the_reason(
    tmp_path: Path, policy: Policy, file: str
) -> None:
    save(tmp_path, policy, step=1)
    torn = save(tmp_path, policy, step=2) / file
    torn.write_bytes(torn.read_bytes()[:-20])
    notes: list[str] = []
    found = newest_checkpoint(tmp_path, owner="me", note=notes.append)
    assert found is not None
    assert found.progress.step == 1
    assert len(notes) == 1
    assert "step-000002 is skipped" in notes[0]
    assert file in notes[0]


def test_a_checkpoint_without_a_file_is_skipped(tmp_path: Path, policy: Policy) -> None:
    (save(tmp_path, policy, step=1) / "model.safetensors").unlink()
    notes: list[str] = []
    assert newest_checkpoint(tmp_path, owner="me", note=notes.append) is None
    assert "model.safetensors is missing" in notes[0]


def test_a_skipped_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path, policy: Policy) -> None:
    (save(tmp_path, policy, step=1) / "model.safetensors").unlink()
    save(tmp_path, policy, step=1)
    found = newest_checkpoint(tmp_path, owner="me", note=silent)
    assert found is not None
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, policy: Policy) -> None:
    save(tmp_path, policy, step=1, owner="somebody else")
    with pytest.raises(ValueError, match="belongs to another run"):
        newest_checkpoint(tmp_path, owner="me", note=silent)


def test_a_checkpoint_of_a_newer_tokensweep_is_refused(tmp_path: Path, policy: Policy) -> None:
    path = save(tmp_path, policy, step=1) / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(ValueError, match="has schema 99, this tokensweep reads up to 1"):
        newest_checkpoint(tmp_path, owner="me", note=silent)


def test_an_optimiser_state_of_another_model_is_refused(tmp_path: Path, policy: Policy) -> None:
    from safetensors.torch import load_file, save_file

    path = save(tmp_path, policy, step=1) / "optimizer.safetensors"
    first = sorted(load_file(path))[0]
    save_file({first: load_file(path)[first]}, path)
    with pytest.raises(ValueError, match="must have a state for all parameters"):
        load_optimizer(path.parent, policy=policy, optimizer=torch.optim.AdamW(policy.model.parameters()))
