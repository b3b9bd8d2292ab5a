"""Shipped models: sizes are those of the cards, hub ids stay ids, and what cannot be had is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tokensweep.compose import freeze_run, register_components
from tokensweep.memory.shapes import parameters
from tokensweep.models.hf import HfModel
from tokensweep.models.smollm2 import SmolLm2Model
from tokensweep.paths import conf_dir

FolderOf = Callable[[str], Path]

# Billions of parameters, with and without embedding and head: the model cards; Llama's, arXiv:2407.21783.
CARDS = {
    "qwen3_0_6b": (0.6, 0.44),
    "qwen3_1_7b": (1.7, 1.4),
    "qwen3_4b": (4.0, 3.6),
    "qwen3_8b": (8.2, 6.95),
    "qwen3_14b": (14.8, 13.2),
    "qwen2_5_math_1_5b": (1.54, 1.31),
    "qwen2_5_math_7b": (7.61, 6.53),
    "r1_distill_qwen_1_5b": (1.78, 1.31),
    "r1_distill_qwen_7b": (7.61, 6.53),
    "llama3_1_8b": (8.03, 6.98),
}


def shapes() -> dict[str, dict[str, Any]]:
    files = (conf_dir() / "model").glob("*.yaml")
    nodes = {file.stem: yaml.safe_load(file.read_text()) for file in files}
    return {name: node["shape"] for name, node in nodes.items() if "shape" in node}


def test_every_shipped_size_is_compared_with_its_card() -> None:
    assert shapes().keys() == CARDS.keys()


@pytest.mark.parametrize("name", CARDS)
def test_a_shipped_model_has_the_parameters_of_its_card(name: str) -> None:
    counted = parameters(shapes()[name])
    inside = counted.kinds["attention"] + counted.kinds["mlp"] + counted.kinds["norms"]
    assert counted.total / 1e9 == pytest.approx(CARDS[name][0], rel=0.015)  # 1.72 billion is called 1.7
    assert inside / 1e9 == pytest.approx(CARDS[name][1], rel=0.015)


def test_smollm2_has_the_parameters_of_its_name(tmp_path: Path) -> None:
    counted = parameters(SmolLm2Model().architecture(cache=tmp_path))
    assert counted.total / 1e6 == pytest.approx(134.5, rel=0.001)


def test_a_base_model_comes_with_the_prompt_of_its_papers() -> None:
    register_components()
    frozen = freeze_run(["model=qwen3_8b"])
    assert frozen["model"]["path"] == "Qwen/Qwen3-8B-Base"
    assert frozen["model"]["chat"] is False
    assert frozen["prompt"]["template"] == "User:\n{prompt}\n\nAssistant:\n"
    assert freeze_run(["model=qwen3_8b", "prompt=r1_zero"])["prompt"]["stop"] == ["</answer>"]


def test_a_hub_id_is_no_path_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_components()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    chosen = ["model=hf", "model.path=models/mine"]
    assert freeze_run(chosen)["model"]["path"] == str(tmp_path / "models" / "mine")
    assert freeze_run([*chosen, f"model.commit={'a' * 40}"])["model"]["path"] == "models/mine"
    assert freeze_run(["model=hf", "model.path=owner/name"])["model"]["path"] == "owner/name"


def test_a_model_that_was_never_released_says_so() -> None:
    register_components()
    with pytest.raises(ValueError, match="not run: Qwen3-32B-Base was never released"):
        freeze_run(["model=qwen3_32b_base"])


def test_weights_must_have_the_shape_that_plans_were_made_with(folder_of: FolderOf, tmp_path: Path) -> None:
    folder = folder_of("llama_untied")
    right = {"hidden_size": 24, "num_hidden_layers": 2, "tie_word_embeddings": False}
    assert HfModel(path=str(folder), shape=right).materialise(data=None, cache=tmp_path) == folder
    with pytest.raises(ValueError, match=r"must have num_hidden_layers=3, as model\.shape says, but has 2"):
        HfModel(path=str(folder), shape={**right, "num_hidden_layers": 3}).materialise(
            data=None, cache=tmp_path
        )


def test_without_a_shape_sizes_are_read_where_the_model_is(folder_of: FolderOf, tmp_path: Path) -> None:
    folder = folder_of("qwen3")
    told = HfModel(path=str(folder)).architecture(cache=tmp_path)
    assert told == json.loads((folder / "config.json").read_text())
    assert HfModel(path="owner/name", commit="a" * 40).architecture(cache=tmp_path) is None


def test_a_shape_is_no_part_of_a_models_identity() -> None:
    from tokensweep.identity import identity_of

    register_components()
    frozen = freeze_run(["model=qwen3_8b"])
    other = {**frozen, "model": {**frozen["model"], "shape": {}}}
    assert identity_of(frozen) == identity_of(other)
