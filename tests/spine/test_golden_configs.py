"""Shipped presets resolve to what was reviewed."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _golden() -> ModuleType:
    path = Path(__file__).parents[1] / "golden_configs.py"
    spec = importlib.util.spec_from_file_location("golden_configs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("preset", _golden().presets())
def test_a_preset_resolves_to_its_reviewed_config(preset: str) -> None:
    golden = _golden()
    expected = golden.FOLDER / f"{preset}.json"
    assert expected.is_file(), f"no reviewed config for {preset}: run make golden and commit {expected.name}"
    assert golden.resolved(preset) == expected.read_text(), "run make golden and look at the diff"


def test_no_reviewed_config_is_left_of_a_preset_that_is_gone() -> None:
    golden = _golden()
    assert sorted(path.stem for path in golden.FOLDER.glob("*.json")) == golden.presets()
