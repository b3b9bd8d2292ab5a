"""A study in PostgreSQL: the same turns, the same counting, and stores that share a database do not meet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.search.postgres import database, postgres  # noqa: F401  fixtures
from tests.search.studies import ask, everybody_lives, search_of, space_of

from tokensweep.search.study import Study

LINE = space_of("x=interval(0,1)")
_WORK = """
import sys
from pathlib import Path
from studies import everybody_lives, search_of, space_of
from tokensweep.search.study import Study
study = Study(search_of(space_of("x=interval(0,1)"), trials=12), Path(sys.argv[1]), steps=9, uri=sys.argv[3])
element = int(sys.argv[2])
while (asked := study.ask(element, is_alive=everybody_lives)) is not None:
    study.report(asked, 3, 0.5)
    study.tell(asked, [float(asked.params["x"])])
    element += 100
"""


def study_in(uri: str, store: Path, *, trials: int) -> Study:
    folder = store / "sweeps" / "made-up" / "search"
    return Study(search_of(LINE, trials=trials), folder, steps=9, uri=uri)


def test_processes_share_a_study_in_a_database(database: str, tmp_path: Path) -> None:  # noqa: F811
    folder = study_in(database, tmp_path, trials=12).folder
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [Path(__file__).parent, *sys.path]))}
    workers = [
        subprocess.Popen([sys.executable, "-c", _WORK, str(folder), str(element), database], env=environment)
        for element in range(3)
    ]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0]
    rows = study_in(database, tmp_path, trials=12).rows()
    assert [row["state"] for row in rows] == ["complete"] * 12
    assert len({row["params"]["x"] for row in rows}) == 12


def test_a_dead_element_is_buried_in_a_database_too(database: str, tmp_path: Path) -> None:  # noqa: F811
    study = study_in(database, tmp_path, trials=2)
    lost = ask(study, 0)
    again = study_in(database, tmp_path, trials=2).ask(1, is_alive=lambda element: element != 0)
    assert again is not None
    assert again.params == lost.params
    assert [row["state"] for row in study.rows()] == ["failed", "running"]


def test_searches_of_one_name_in_two_stores_are_two_studies(database: str, tmp_path: Path) -> None:  # noqa: F811
    here, there = (study_in(database, tmp_path / name, trials=3) for name in ("here", "there"))
    ask(here, 0)
    assert len(here.rows()) == 1
    assert there.rows() == []
    assert there.ask(0, is_alive=everybody_lives) is not None
