"""Model folders are built once: under a lock, in a folder of their own, moved into place when complete."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def fingerprint(*parts: Any) -> str:
    """Sixteen hex digits of the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model's folder."""
    from transformers import AutoTokenizer  # slow to import, and not needed by every plan

    return AutoTokenizer.from_pretrained(folder)


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
    """``folder`` if it holds config, weights and tokenizer; raises ValueError naming what is missing."""
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
    return folder
