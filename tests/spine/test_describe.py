"""``tokensweep methods`` lists every preset and explains each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokensweep.conditions import CONDITIONS
from tokensweep.describe import lines_of_code, methods_command
from tokensweep.presets import presets, read_preset


def test_every_preset_says_what_it_is_and_what_it_was_made_from(capsys: pytest.CaptureFixture[str]) -> None:
    methods_command([])
    shown = capsys.readouterr().out
    for name, preset in presets().items():
        assert name in shown
        assert preset.header, f"{preset.path} must start with a comment that says what it is"
        assert preset.evidence in {"paper", "code", "note", "reconstruction"}, preset.path
        assert set(preset.applies_to) <= set(CONDITIONS), preset.path


def test_a_method_is_explained_slot_by_slot(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    methods_command(["kl_cov"])
    shown = capsys.readouterr().out
    assert "regularizers.kl_cov" in shown
    assert "kl_cov(share=0.002, coef=1.0, scope=batch, policy=old)" in shown
    assert "arXiv:2505.22617, evidence: code, updates per batch: 8" in shown


def test_a_method_is_explained_with_its_keys_its_claims_and_its_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    methods_command(["forking_tokens"])
    shown = capsys.readouterr().out
    assert "k = max(1, ceil(fraction * m)) exactly" in shown  # the definition
    assert "method.token_weights.entropy.fraction=0.2" in shown
    assert "claim top_not_worse: kind non_inferiority, contrast top20 - all" in shown
    assert "tokensweep sweep forking_tokens" in shown


def test_programs_are_told_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    methods_command(["forking_tokens", "--json"])
    assert json.loads(capsys.readouterr().out) == {
        "name": "forking_tokens",
        "summary": "Forking tokens (80/20), arXiv:2506.01939: DAPO on the 20 % of tokens with the highest "
        "entropy.",
        "paper": "arXiv:2506.01939",
        "evidence": "code",
        "slots": ["token_weights", "aggregate"],
        "bases": ["dapo"],
        "applies_to": ["any"],
        "sweep": "forking_tokens",
    }
    methods_command(["--json"])
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == list(presets())


def test_a_preset_file_is_read_without_composing_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "# Mine.\n# More.\ndefaults:\n  - dapo\n  - token_weights/entropy@token_weights.mine\n"
        "  - override ratio: holder\n  - _self_\npaper: arXiv:1\nschedules: {}\n"
    )
    mine = read_preset(path)
    assert mine.header == ("Mine.", "More.")
    assert mine.bases == ("dapo",)
    assert mine.selects == {"token_weights@token_weights.mine": "entropy", "ratio": "holder"}
    assert mine.slots == ("token_weights", "ratio", "schedules")
    assert mine.applies_to == ("any",)


def test_lines_of_code_are_those_that_do_something() -> None:
    text = '"""Text\nof two lines."""\n\nx = 1  # why\n# not this\n\ndef f():\n    """No."""\n'
    text += '    return """a\nb"""\n'
    assert lines_of_code(text) == 4  # x, def, and two of return


def test_a_preset_in_a_folder_of_ones_own_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text("# Mine, all mine.\nname: mine\n")
    monkeypatch.setenv("TOKENSWEEP_PATH", str(tmp_path))
    methods_command([])
    assert "Mine, all mine." in capsys.readouterr().out


def test_an_unknown_method_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"no method 'zzzz': known are .*dapo"):
        methods_command(["zzzz"])


def test_a_name_that_is_nearly_one_has_a_hint() -> None:
    with pytest.raises(
        ValueError, match=r"no method 'explicit_uncertainty': did you mean explicit_uncertainty_"
    ):
        methods_command(["explicit_uncertainty"])
