"""Several ranks of one element: rank 0 asks the study and says which run all of them train next."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensweep.files import write_json
from tokensweep.identity import read_json

_POLL_S = 0.5


@dataclass
class Crew:
    """The ranks of element ``number`` of the search in ``folder``, in one start of its job.

    What an earlier start of the job has left behind is told apart by ``start``, which differs between them.
    """

    folder: Path
    number: int
    start: str
    called: int = 0

    @classmethod
    def of(cls, folder: Path, number: int, environ: Mapping[str, str]) -> Crew:
        """Of the job that SLURM's variables in ``environ`` name."""
        start = f"{environ.get('SLURM_JOB_ID', '')}.{environ.get('SLURM_RESTART_COUNT', '0')}"
        return cls(folder, number, start)

    @property
    def _path(self) -> Path:
        return self.folder / "elements" / f"{self.number:04d}.run.json"

    def call(self, run_id: str | None) -> None:
        """Rank 0: have the others train a run, or leave (None)."""
        self.called += 1
        write_json(self._path, {"start": self.start, "number": self.called, "run": run_id})

    def calls(self) -> Iterator[str]:
        """The other ranks: the runs to train, until rank 0 says that there is none."""
        heard = 0
        while True:
            told = self._told()
            if told.get("start") != self.start or told["number"] <= heard:
                time.sleep(_POLL_S)
                continue
            heard = told["number"]
            if told["run"] is None:
                return
            yield str(told["run"])

    def _told(self) -> dict[str, Any]:
        return read_json(self._path) if self._path.is_file() else {}
