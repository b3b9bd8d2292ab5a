"""How the command ends when something goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from tokensweep import cli
from tokensweep.rollout.vllm import EngineError


def test_an_engine_that_fails_is_an_error_of_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(arguments: Sequence[str]) -> None:
        raise EngineError("no vLLM server answers at http://node:8000")

    monkeypatch.setattr(cli, "_doctor", fails)
    monkeypatch.setattr(sys, "argv", ["tokensweep", "doctor"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "tokensweep: error: no vLLM server answers at http://node:8000\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(arguments: Sequence[str]) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(cli, "_doctor", fails)
    monkeypatch.setattr(sys, "argv", ["tokensweep", "doctor"])
    with pytest.raises(RuntimeError, match="a fault"):
        cli.main()
