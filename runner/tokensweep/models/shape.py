"""The sizes of a model as its config.json names them, for plans that are made without its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_architecture(folder: Path) -> dict[str, Any] | None:
    """The config.json of a model's folder; None where there is none."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def check_shape(folder: Path, shape: Mapping[str, Any]) -> Path:
    """``folder``, whose config.json must say of each key of ``shape`` what ``shape`` says.

    Raises ValueError naming the first key that differs: plans would be of another model than runs.
    """
    if not shape:
        return folder
    from transformers import AutoConfig  # knows the value of a key that a config.json leaves out

    config = AutoConfig.from_pretrained(folder)
    for key, value in shape.items():
        found = getattr(config, key, None)
        if found != value:
            raise ValueError(
                f"{folder / 'config.json'} must have {key}={value}, as model.shape says, but has {found}: "
                f"correct model.shape.{key}, or choose the model that it describes"
            )
    return folder
