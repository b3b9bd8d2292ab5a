"""Problems from a JSONL file: one object per line with ``id``, ``problem`` and ``answer``.

Benchmarks are this component with a file, an instruction and an expected count; no contest text is shipped.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokensweep.problems.grading import GRADER, grade_answer, normalise
from tokensweep.problems.procedural import Split
from tokensweep.problems.protocol import Grade, Problem
from tokensweep.registry import component

_SLOT = "{problem}"
_COLUMNS = ("id", "problem", "answer")


@component("data", "jsonl")
@dataclass(frozen=True)
class JsonlProblems:
    """Problems with exact answers from ``path``.

    Every access raises ValueError for a file that is missing, empty, cut off, ambiguous or of wrong length.
    """

    name: str = "jsonl"
    path: str = ""  # absolute; a relative path is made absolute where the command is typed
    num_problems: int | None = None  # expected count; null: any
    instruction: str = "{problem}"
    max_tokens: int = 2048
    answer_space: int | None = None  # answers that a blind guesser chooses from; null: unknown
    held_out: int = 0  # problems of the file, chosen by the hash of their id, that only split=test gives
    split: Split = Split.train
    size: int | None = None  # how many problems of the split; null: all

    def __post_init__(self) -> None:
        if self.held_out < 0 or (self.size is not None and self.size < 1):
            raise ValueError(f"held_out must be >= 0 and size >= 1, got {self.held_out} and {self.size}")
        if self.split is Split.test and (self.size or 1) > self.held_out:
            raise ValueError(
                f"{self.name}: its test split has data.held_out={self.held_out} problems, {self.size} were "
                "asked for: raise data.held_out, lower eval.held_out, or evaluate on another file (eval=NAME)"
            )
        if self.answer_space is not None and self.answer_space < 1:
            raise ValueError(f"answer_space must be at least 1, or null, got {self.answer_space}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if self.instruction.count(_SLOT) != 1:
            raise ValueError(f"instruction must contain {_SLOT} exactly once, got {self.instruction!r}")

    @property
    def grader(self) -> str:
        """Name and version of the shared exact grader."""
        return GRADER

    def __len__(self) -> int:
        return len(self._problems())

    def __getitem__(self, index: int, /) -> Problem:
        return self._problems()[index]

    def check(self) -> None:
        """Raise ValueError naming file, line and next step if the file can not be used."""
        self._problems()

    def content_hash(self) -> str:
        """SHA-256 over instruction and rows in order; neither path nor extra columns nor the grader count."""
        rows: list[Any] = [
            self.instruction,
            [[p.id, p.prompt, p.answer] for p in self._problems()],
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def prompt_text(self, problem: Problem) -> str:
        """The instruction with the problem in its place."""
        return self.instruction.replace(_SLOT, problem.prompt)

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        """Grade with the shared exact grader."""
        assert problem.answer is not None
        return grade_answer(text, problem.answer, finish_reason=finish_reason)

    def _problems(self) -> tuple[Problem, ...]:
        file = _file(self.path, self.name)
        stat = file.stat()
        return _of_split(self, file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _of_split(source: JsonlProblems, file: Path, size: int, changed: int) -> tuple[Problem, ...]:
    """The problems of the source's split in file order; size and time of change only key the cache."""
    problems = _read(file, size, changed)
    if source.num_problems is not None and len(problems) != source.num_problems:
        raise ValueError(
            f"{source.name} must have {source.num_problems} problems, got {len(problems)} in {file}: "
            "fetch the file again, or set data.num_problems to what it should hold"
        )
    if source.held_out >= len(problems):
        raise ValueError(
            f"{source.name}: held_out must leave some to train on, got {source.held_out} of {len(problems)}"
        )
    ordered = sorted(problems, key=lambda problem: hashlib.sha256(problem.id.encode()).digest())
    test = {problem.id for problem in ordered[: source.held_out]}
    wanted = [problem for problem in problems if (problem.id in test) == (source.split is Split.test)]
    return tuple(wanted[: source.size])


def _file(path: str, name: str) -> Path:
    """The file as a path, or a ValueError that says how to give one."""
    if not path:
        raise ValueError(
            f"{name} has no file: give data.path=FILE (for an evaluation suite eval.path=FILE), "
            "a JSONL file with id, problem and answer on every line"
        )
    file = Path(path)
    if not file.is_absolute():
        raise ValueError(f"path of {name} must be absolute, got {path!r}: the node does not know your folder")
    if not file.is_file():
        raise ValueError(
            f"{name} must be a JSONL file, but {path} is none: correct data.path or fetch the file"
        )
    return file


@lru_cache(maxsize=16)
def _read(file: Path, size: int, changed: int) -> tuple[Problem, ...]:
    """The rows; size and time of change only key the cache."""
    found: dict[str, Problem] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        problem = _problem(line, where=f"{file} line {number}")
        if problem.id in found:
            raise ValueError(f"{file} line {number}: id {problem.id!r} appears twice: ids must be unique")
        found[problem.id] = problem
    if not found:
        raise ValueError(f"{file} is empty: it must hold a JSON object with id, problem and answer per line")
    return tuple(found.values())


def _problem(line: str, *, where: str) -> Problem:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where} is not valid JSON ({error.msg}): a cut-off line? fetch the file again"
        ) from None
    missing = [column for column in _COLUMNS if not isinstance(row, dict) or column not in row]
    if missing:
        raise ValueError(f"{where} has no {', '.join(missing)}: every line must hold id, problem and answer")
    prompt, answer = row["problem"], row["answer"]
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{where}: problem must be a text, got {prompt!r}")
    if isinstance(answer, bool) or not isinstance(answer, str | int) or not normalise(str(answer)):
        raise ValueError(f"{where}: answer must be a text or an integer that can be compared, got {answer!r}")
    return Problem(id=str(row["id"]), prompt=prompt, answer=str(answer))
