"""Folders that hold no usable model: the error names the file, what it must be, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tokensweep.models.policy import Policy
from tokensweep.models.store import check_folder

FolderOf = Callable[[str], Path]


@pytest.mark.parametrize("kept", [0, 5, -100], ids=["empty", "no header", "half-written"])
def test_weights_that_are_cut_off_are_named(folder_of: FolderOf, kept: int) -> None:
    file = folder_of("llama_tied") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(
        ValueError, match=r"model\.safetensors must be a complete safetensors file.*: copy or download it"
    ):
        check_folder(file.parent)


@pytest.mark.parametrize("text", ['{"model_type": "lla', "[]", ""], ids=["cut off", "a list", "empty"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_json_file_that_holds_no_object_is_named(folder_of: FolderOf, name: str, text: str) -> None:
    folder = folder_of("llama_tied")
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name} must hold a JSON object, got .*: copy or download it"):
        check_folder(folder)


def test_an_index_that_names_no_files_is_refused(folder_of: FolderOf) -> None:
    folder = folder_of("llama_tied")
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json must have a weight_map"):
        check_folder(folder)


@pytest.mark.parametrize("kind", ["t5", "walkformer", None])
def test_a_type_that_is_no_causal_language_model_is_refused_in_one_line(
    folder_of: FolderOf, kind: str | None
) -> None:
    folder = folder_of("llama_tied")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    with pytest.raises(
        ValueError, match=r"config\.json must have the model_type of a causal language model"
    ) as told:
        Policy(folder)
    assert repr(kind) in str(told.value)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 400


def test_a_tokenizer_that_is_cut_off_is_named(folder_of: FolderOf) -> None:
    folder = folder_of("llama_tied")
    file = folder / "tokenizer.json"
    file.write_text(file.read_text()[:200])
    with pytest.raises(ValueError, match=r"must hold a tokenizer that transformers .* reads, but .*: copy"):
        Policy(folder)


def test_a_weight_that_is_no_number_is_named_and_the_architecture_not_blamed(folder_of: FolderOf) -> None:
    file = folder_of("llama_tied") / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.mlp.down_proj.weight"][3, 4] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="finite weights") as told:
        Policy(file.parent)
    assert "model.layers.1.mlp.down_proj.weight" in str(told.value)
    assert "architecture" not in str(told.value)
