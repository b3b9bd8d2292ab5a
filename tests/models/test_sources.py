"""Model components: what they build, how it is identified, and what they refuse."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import huggingface_hub.errors
import pytest
import torch

from tokensweep.models.hf import HfModel
from tokensweep.models.policy import Policy
from tokensweep.models.prompts import encode_prompt
from tokensweep.models.smollm2 import SmolLm2Model
from tokensweep.models.store import build_once
from tokensweep.models.tiny import TinyModel
from tokensweep.problems.jsonl import JsonlProblems
from tokensweep.problems.ops import Ops
from tokensweep.registry import build

FolderOf = Callable[[str], Path]

SMALL = TinyModel(hidden=16, layers=1, heads=2, head_dim=8, mlp=24, steps=3, batch=4)
DATA = Ops(size=40, steps=2)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = Policy(folder).model.state_dict()
    return state


def test_the_tiny_model_is_built_once_and_found_again(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    folder = SMALL.materialise(
        data=DATA, cache=tmp_path, progress=lambda done, total: steps.append((done, total))
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert (
        SMALL.materialise(data=DATA, cache=tmp_path, progress=lambda *_: pytest.fail("built again")) == folder
    )
    assert folder.name == SMALL.revision(data=DATA)


def test_the_tiny_model_is_the_same_wherever_it_is_built(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    first, second = (weights(SMALL.materialise(data=DATA, cache=tmp_path / name)) for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone


def test_the_warm_start_learns_the_demonstrations(tmp_path: Path) -> None:
    # Guessing among all tokens costs log 64 = 4.16 nats, among the digits alone log 10 = 2.30.
    model = replace(SMALL, steps=150, batch=16, lr=1e-2)
    policy = Policy(model.materialise(data=DATA, cache=tmp_path))
    text = DATA[0].prompt + DATA.demonstration(DATA[0], seed=1)
    ids = torch.tensor(policy.tokenizer.encode(text))
    logits = policy.hidden(ids, torch.tensor([0, len(ids)])) @ policy.head_weight.T
    completion = len(DATA[0].prompt)
    loss = torch.nn.functional.cross_entropy(logits[completion - 1 : -1], ids[completion:])
    assert float(loss.detach()) < 2


def test_the_revision_follows_recipe_and_data() -> None:
    revisions = {
        SMALL.revision(data=DATA),
        replace(SMALL, seed=1).revision(data=DATA),
        SMALL.revision(data=Ops(size=40, steps=2, skill=0.9)),
    }
    assert len(revisions) == 3


def test_the_tiny_model_needs_data_with_demonstrations(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be warm-started on demonstrations, got jsonl"):
        SMALL.materialise(data=JsonlProblems(), cache=tmp_path)
    with pytest.raises(ValueError, match="got no data"):
        SMALL.revision(data=None)


@pytest.mark.parametrize(("field", "value"), [("hidden", 0), ("steps", -1), ("lr", 0.0)])
def test_a_tiny_model_out_of_range_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        build({"_component_": "model/tiny", field: value})


def test_a_build_that_failed_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        build_once(tmp_path / "model", fail)
    assert not (tmp_path / "model").exists()
    assert list(build_once(tmp_path / "model", lambda folder: (folder / "whole").touch()).iterdir()) == [
        tmp_path / "model" / "whole"
    ]


def test_of_several_builders_one_builds_and_the_others_wait(tmp_path: Path) -> None:
    built: list[int] = []
    barrier = threading.Barrier(4)

    def run(number: int) -> None:
        barrier.wait()
        build_once(tmp_path / "model", lambda folder: built.append(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_a_folder_is_used_as_it_is_and_identified_by_its_content(folder_of: FolderOf, tmp_path: Path) -> None:
    folder = folder_of("qwen3")
    model = HfModel(path=str(folder))
    assert model.materialise(data=None, cache=tmp_path) == folder
    before = model.revision(data=None)
    weights_file = folder / "model.safetensors"
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1  # one bit of one weight
    weights_file.write_bytes(content)
    assert model.revision(data=None) != before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"give model.path=FOLDER"),
        ({"path": "models/here/below"}, "must be absolute or a hub id"),
        ({"path": "/nowhere/at/all"}, "does not exist"),
        ({"path": "owner/name"}, "40 hex digits"),
        ({"path": "owner/name", "commit": "main"}, "a branch may move"),
    ],
)
def test_a_model_that_is_not_identified_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HfModel(**fields).revision(data=None)


def test_a_hub_model_is_identified_by_its_commit() -> None:
    assert HfModel(path="owner/name", commit="a" * 40).revision(data=None) == "owner/name@" + "a" * 40


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_HUB_OFFLINE=1, which huggingface_hub reads when it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


HUB = HfModel(path="owner/name", commit="0123456789abcdef" * 2 + "01234567")


@pytest.mark.usefixtures("offline")
def test_a_hub_model_that_is_neither_here_nor_to_be_had_says_where_and_how(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can't be reached") as caught:
        HUB.materialise(data=None, cache=tmp_path)
    message = str(caught.value)
    assert f"owner/name at commit {HUB.commit} is not in {tmp_path}/owner--name-0123456789ab" in message
    assert f"`hf download owner/name --revision {HUB.commit} --local-dir FOLDER`" in message
    assert "model.path=FOLDER" in message


@pytest.mark.usefixtures("offline")
def test_a_hub_model_that_was_brought_by_hand_is_taken_without_network(
    folder_of: FolderOf, tmp_path: Path
) -> None:
    place = tmp_path / "owner--name-0123456789ab"
    folder_of("qwen3").rename(place)
    assert HUB.materialise(data=None, cache=tmp_path) == place
    assert HUB.revision(data=None) == f"owner/name@{HUB.commit}"  # the same run as with a download


@pytest.mark.parametrize("name", ["RepositoryNotFoundError", "GatedRepoError", "RevisionNotFoundError"])
def test_a_hub_model_that_the_hub_refuses_is_a_mistake_in_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind = getattr(huggingface_hub.errors, name)
    answer = httpx2.Response(404, request=httpx2.Request("GET", "https://hub"))

    def refuse(*args: object, **kwargs: object) -> str:
        raise kind("no", response=answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=rf"owner/name at commit 0123.* {name}: correct model\.path"):
        HUB.materialise(data=None, cache=tmp_path)


def test_a_folder_without_one_of_its_files_of_weights_is_refused(folder_of: FolderOf, tmp_path: Path) -> None:
    policy = Policy(folder_of("qwen3"))
    policy.model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    policy.tokenizer.save_pretrained(tmp_path / "shards")
    model = HfModel(path=str(tmp_path / "shards"))
    assert Policy(model.materialise(data=None, cache=tmp_path)).vocab_size == 64
    first = min((tmp_path / "shards").glob("*.safetensors"))
    first.unlink()
    with pytest.raises(ValueError, match=f"all weights that .* names, but has no {first.name}: copy"):
        model.revision(data=None)


def test_smollm2_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ValueError, match=r"pip install 'tokensweep\[smollm2\]'"):
        SmolLm2Model().materialise(data=None, cache=tmp_path)


@pytest.mark.slow
def test_smollm2_answers_a_question_through_its_chat_template(tmp_path: Path) -> None:
    model = SmolLm2Model()
    policy = Policy(model.materialise(data=None, cache=tmp_path))
    prompt = encode_prompt(policy.tokenizer, "What is the capital of France?", chat=model.chat)
    output = policy.model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
    assert "Paris" in policy.decode(output[0, len(prompt) :].tolist())


class ChatTokenizer:
    """One token per character, with a template that wraps the turn in brackets."""

    chat_template = "[{}]"

    def apply_chat_template(
        self, turns: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert add_generation_prompt
        assert not tokenize
        return f"[{turns[0]['content']}]"

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [0] * add_special_tokens + [ord(character) for character in text]


def test_a_chat_prompt_is_one_turn_without_a_second_start_token() -> None:
    assert encode_prompt(ChatTokenizer(), "a", chat=True) == (ord("["), ord("a"), ord("]"))
    assert encode_prompt(ChatTokenizer(), "a", chat=False) == (0, ord("a"))


def test_prompts_that_can_not_be_encoded_are_refused(folder_of: FolderOf) -> None:
    tokenizer = Policy(folder_of("qwen3")).tokenizer
    with pytest.raises(ValueError, match="no chat template"):
        encode_prompt(tokenizer, "1+1", chat=True)
    with pytest.raises(ValueError, match="no token for some character"):
        encode_prompt(tokenizer, "größe", chat=False)
    with pytest.raises(ValueError, match="at least one token"):
        encode_prompt(tokenizer, "", chat=False)
