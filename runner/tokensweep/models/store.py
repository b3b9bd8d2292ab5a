"""Model folders are built once: under a lock, in a folder of their own, moved into place when complete."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    import torch

_SHOWN = 3  # names of weights in a message


def fingerprint(*parts: Any) -> str:
    """Sixteen hex digits of the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model's folder. Raises ValueError for one that transformers can not read."""
    import transformers  # slow to import, and not needed by every plan

    check_known(folder)
    try:
        return transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(
            f"{folder} must hold a tokenizer that transformers {transformers.__version__} reads, but "
            f"{_first_line(error)}: copy or download its files again"
        ) from error


def check_known(folder: Path) -> None:
    """Raise ValueError unless config.json is of a kind of causal language model that transformers has.

    Asked first, as transformers answers at a page's length, or asks whether it may run code of the folder.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = _json_object(folder / "config.json").get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"{folder / 'config.json'} must have the model_type of a causal language model that transformers "
            f"{transformers.__version__} knows, got {kind!r}: choose another model"
        )


def load_model(folder: Path, *, dtype: torch.dtype) -> Any:
    """The causal language model of a folder, with transformers' plain attention.

    Raises ValueError where weights and config do not belong together: transformers would draw what is missing
    at random and drop what is left over.
    """
    from transformers import AutoModelForCausalLM

    check_known(folder)
    model, found = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation="eager",
        use_safetensors=True,  # the other format is a pickle, which can run code
        ignore_mismatched_sizes=True,  # to be told of them
        output_loading_info=True,
    )
    problems = [
        f"{word} {_some(keys)}"
        for word, keys in (
            ("missing", sorted(found["missing_keys"])),
            ("left over", sorted(found["unexpected_keys"])),
            ("of another shape", sorted(_shapes(entry) for entry in found["mismatched_keys"])),
        )
        if keys
    ]
    if problems:
        raise ValueError(
            f"{folder} must hold all weights of a {type(model).__name__} as its config.json describes it, "
            f"but there are weights {', '.join(problems)}: put config.json and weights of one model there"
        )
    return model


def _some(keys: list[str]) -> str:
    """The first few names, and how many more there are."""
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _shapes(entry: tuple[str, Sequence[int], Sequence[int]]) -> str:
    name, found, wanted = entry
    return f"{name} ({list(found)}, not {list(wanted)})"


def build_once(target: Path, write: Callable[[Path], None]) -> Path:
    """``target``, built by ``write(folder)`` unless it exists.

    Of several processes one builds and the others wait. A build that was killed leaves only a folder ending
    in ``.partial``, which the next one replaces; ``target`` is complete whenever it exists.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            partial = target.with_name(f"{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            write(partial)
            partial.rename(target)
    return target


def check_folder(folder: Path) -> Path:
    """``folder`` if it holds config, weights and tokenizer; raises ValueError for what is missing or cut off.

    Of weights in several files all must be there that the index names.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} must be a folder with a Hugging Face model, but does not exist")
    for pattern, part in (
        ("config.json", "config"),
        ("*.safetensors", "weights"),
        ("tokenizer*", "tokenizer"),
    ):
        if not any(folder.glob(pattern)):
            raise ValueError(
                f"{folder} must hold a Hugging Face model, but has no {part} ({pattern}): save it there"
            )
    _json_object(folder / "config.json")
    index = folder / "model.safetensors.index.json"
    if absent := sorted(shard for shard in _shards(index) if not (folder / shard).is_file()):
        raise ValueError(
            f"{folder} must hold all weights that {index.name} names, but has no {_some(absent)}: "
            "copy or download the rest"
        )
    for file in sorted(folder.glob("*.safetensors")):
        _check_complete(file)
    return folder


def _shards(index: Path) -> set[str]:
    """The files that an index names; none where there is no index."""
    if not index.is_file():
        return set()
    named = _json_object(index).get("weight_map")
    if not isinstance(named, dict):
        raise ValueError(f"{index} must have a weight_map from weights to files: copy or download it again")
    return set(named.values())


def _check_complete(file: Path) -> None:
    """Raise ValueError unless a safetensors file is as long as its header says; its weights are not read."""
    try:
        with safe_open(file, framework="numpy"):
            return
    except SafetensorError as error:
        raise ValueError(
            f"{file} must be a complete safetensors file, but {_first_line(error)}: copy or download it again"
        ) from error


def _json_object(file: Path) -> dict[str, Any]:
    """The content of a JSON file; raises ValueError naming it where that is no object."""
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(
            f"{file} must hold a JSON object, got a text that is none ({_first_line(error)}): "
            "copy or download it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{file} must hold a JSON object, got a {type(content).__name__}: copy or download it again"
        )
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
