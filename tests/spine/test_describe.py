"""``tokensweep methods`` lists every preset and explains each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokensweep.describe import header, methods_command, presets


def test_every_preset_says_what_it_is_and_what_it_was_made_from(capsys: pytest.CaptureFixture[str]) -> None:
    methods_command([])
    shown = capsys.readouterr().out
    for name, path in presets().items():
        assert name in shown
        assert header(path), f"{path.name} must start with a comment that says what it is"


def test_a_method_is_explained_slot_by_slot(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    methods_command(["kl_cov"])
    shown = capsys.readouterr().out
    assert "regularizers.kl_cov" in shown
    assert "kl_cov(share=0.002, coef=1.0, scope=batch, policy=old)" in shown
    assert "arXiv:2505.22617, evidence: code, updates per batch: 8" in shown


def test_a_preset_in_a_folder_of_ones_own_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text("# Mine, all mine.\nname: mine\n")
    monkeypatch.setenv("TOKENSWEEP_PATH", str(tmp_path))
    methods_command([])
    assert "Mine, all mine." in capsys.readouterr().out


def test_an_unknown_method_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"no method 'nope': known are .*dapo"):
        methods_command(["nope"])
