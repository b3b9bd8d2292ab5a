"""Who watches a search goes on watching when its study is away for a while."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console
from tests.search.studies import ask, search_of, space_of, study_of

from tokensweep.search.board import SearchBoard
from tokensweep.search.study import Study


def test_a_study_that_is_away_is_said_once_and_ends_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    study = study_of(tmp_path, search_of(space_of("n=interval(0,1)"), trials=2))
    console = Console(file=io.StringIO(), width=200)
    board = SearchBoard(console, study)
    asked = ask(study)
    with monkeypatch.context() as away:
        away.setattr(Study, "rows", _away)
        board.show()
        board.show()
    study.tell(asked, [0.5])
    board.show()
    told = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert told.count("the server is away") == 1
    assert "told    trial-000  accuracy 0.5" in told


def _away(_: Study) -> list[dict[str, Any]]:
    raise ValueError("the server is away")
