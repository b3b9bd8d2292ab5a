"""Problems from a JSONL file: one object per line with ``id``, ``problem`` and ``answer``.

Benchmarks are this component with a file, an instruction and what is known of the set; no problem text is
shipped. Runs read local files only: a cluster's node needs no internet (``tokensweep data fetch`` does).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from tokensweep.problems.checks import AnswerForm, Expected, findings
from tokensweep.problems.dates import check_day
from tokensweep.problems.grading import GRADER, check_golds, grade_answers
from tokensweep.problems.overlap import shared
from tokensweep.problems.procedural import Split
from tokensweep.problems.protocol import Answered, Grade, Problem
from tokensweep.registry import component
from tokensweep.verifier import LONGEST, unwrap

_SLOT = "{problem}"
_COLUMNS = ("id", "problem", "answer")


@component("data", "jsonl")
@dataclass(frozen=True)
class JsonlProblems:
    """Problems with answers that can be verified from ``path``.

    Every access raises ValueError for a file that is missing, empty, cut off or ambiguous, and :meth:`check`
    also for one that does not hold what is known of the set.
    """

    LABELS: ClassVar[tuple[str, ...]] = (
        *("path", "exclude", "answer_space", "num_problems", "answer_form", "answers", "date"),
        *("hub", "hub_subset", "hub_split", "hub_rows", "revision", "license", "checked", "note"),
    )

    name: str = "jsonl"
    path: str = ""  # absolute; a relative path is made absolute where the command is typed
    exclude: tuple[str, ...] = ()  # files, or names of sets, whose problems are dropped from this one
    instruction: str = "{problem}"
    max_tokens: int = 2048
    answer_space: int | None = None  # answers that a blind guesser chooses from; null: unknown
    held_out: int = 0  # problems of the file, chosen by the hash of their id, that only split=test gives
    split: Split = Split.train
    size: int | None = None  # how many problems of the split; null: all
    skip: int = 0  # problems of the split that come before them and are left to others
    num_problems: int | None = None  # expected in the file; null: any number
    answer_form: AnswerForm = AnswerForm.text
    answers: str = ""  # hash that the answers must have, see checks.answers_hash; empty: not known
    date: str = ""  # when the problems became public, the last of them; empty: unknown
    hub: str = ""  # dataset OWNER/NAME that `tokensweep data fetch` downloads
    hub_subset: str = ""  # folder or configuration of it; empty: the only one
    hub_split: str = "train"
    hub_rows: str = "columns"  # how its rows are read, see tokensweep.data.convert
    revision: str | None = None  # commit; null: the newest, which is then written beside the file
    license: str = ""
    checked: str = ""  # what of these facts was looked up where
    note: str = ""

    def __post_init__(self) -> None:
        check_day("date", self.date)
        if self.held_out < 0 or (self.size is not None and self.size < 1):
            raise ValueError(f"held_out must be >= 0 and size >= 1, got {self.held_out} and {self.size}")
        if self.skip < 0:
            raise ValueError(f"skip must be at least 0, got {self.skip}")
        if self.split is Split.test and self.skip + (self.size or 1) > self.held_out:
            skipped = f" behind the first {self.skip}" if self.skip else ""
            raise ValueError(
                f"{self.name}: its test split has data.held_out={self.held_out} problems, {self.size} were "
                f"asked for{skipped}: raise data.held_out, lower eval.held_out, or evaluate on another file "
                "(eval=NAME)"
            )
        if self.answer_space is not None and self.answer_space < 1:
            raise ValueError(f"answer_space must be at least 1, or null, got {self.answer_space}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if self.instruction.count(_SLOT) != 1:
            raise ValueError(f"instruction must contain {_SLOT} exactly once, got {self.instruction!r}")

    @property
    def grader(self) -> str:
        """Name and version of the shared grader."""
        return GRADER

    def __len__(self) -> int:
        return len(self._problems())

    def __getitem__(self, index: int, /) -> Problem:
        return self._problems()[index]

    def check(self) -> None:
        """Raise ValueError naming file, line or id and next step if the file can not be used.

        That includes a reference answer that does not verify against itself, for no answer could be right.
        """
        wrong = findings(self.whole_file(), self.expected)
        if wrong:
            again = f"fetch it again (tokensweep data fetch {self.name} force=true), or " if self.hub else ""
            raise ValueError(
                f"{self.name} {'; it '.join(wrong)} ({self.path}): {again}correct the file; if "
                "another one is meant, say so in its keys num_problems, answers and answer_form"
            )
        check_golds(self._problems(), where=self.path)

    @property
    def expected(self) -> Expected:
        """What is known of the set."""
        return Expected(num_problems=self.num_problems, answer_form=self.answer_form, answers=self.answers)

    def whole_file(self) -> tuple[Problem, ...]:
        """Every problem of the file, whatever the split, the size and what is excluded."""
        return _read(*_version(_file(self)))

    @property
    def num_excluded(self) -> int:
        """Problems of the file that :attr:`exclude` drops."""
        return len(self.whole_file()) - len(_not_excluded(_version(_file(self)), self._excluded()))

    @property
    def num_like_held_out(self) -> int:
        """Problems that are not trained on because they repeat a held-out one, see problems.overlap."""
        apart = replace(self, split=Split.train, size=None, skip=0)
        return len(self.whole_file()) - self.num_excluded - self.held_out - len(apart)

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
        """Grade one completion; many are graded faster by ``grade_many``."""
        return grade_answers([Answered(problem=problem, text=text, finish_reason=finish_reason)])[0]

    def grade_many(self, answers: Sequence[Answered], /) -> list[Grade]:
        """Grade with the shared grader, in parallel where the text of an answer does not decide."""
        return grade_answers(answers)

    def _problems(self) -> tuple[Problem, ...]:
        return _of_split(self, _version(_file(self)), self._excluded())

    def _excluded(self) -> tuple[_Version, ...]:
        for path in self.exclude:
            if not Path(path).is_file():
                raise ValueError(
                    f"data.exclude of {self.name} must list files, but {path} is none: "
                    "fetch that set, or give the file"
                )
        return tuple(_version(Path(path)) for path in self.exclude)


_Version = tuple[Path, int, int]  # a file, its size and its time of change, which key caches


def _version(file: Path) -> _Version:
    stat = file.stat()
    return file, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=16)
def _of_split(
    source: JsonlProblems, version: _Version, excluded: tuple[_Version, ...]
) -> tuple[Problem, ...]:
    """The problems of the source's split in file order; none is trained on that repeats a held-out one."""
    problems = _not_excluded(version, excluded)
    if source.held_out >= len(problems):
        raise ValueError(
            f"{source.name}: held_out must leave some to train on, got {source.held_out} of {len(problems)}"
        )
    ordered = sorted(problems, key=lambda problem: hashlib.sha256(problem.id.encode()).digest())
    test = {problem.id for problem in ordered[: source.held_out]}
    held_out = tuple(problem for problem in problems if problem.id in test)
    if source.split is Split.test:
        return _part(source, held_out)
    rest = tuple(problem for problem in problems if problem.id not in test)
    return _part(source, _without(rest, held_out))


def _part(source: JsonlProblems, problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """The source's ``size`` problems behind the first ``skip``; without ``skip``, as many as there are."""
    part = problems[source.skip :][: source.size]
    if source.skip and len(part) < (source.size or 1):
        raise ValueError(
            f"{source.name} has {len(problems)} {source.split} problems, but {source.size or 'some'} were "
            f"asked for behind the first {source.skip}: lower size or skip, or take another file"
        )
    return part


@lru_cache(maxsize=16)
def _not_excluded(version: _Version, excluded: tuple[_Version, ...]) -> tuple[Problem, ...]:
    """The problems of a file that are in none of the excluded files."""
    return _without(_read(*version), [problem for other in excluded for problem in _read(*other)])


def _without(problems: tuple[Problem, ...], others: Sequence[Problem]) -> tuple[Problem, ...]:
    """The problems that are not among the others."""
    same = {problem.id for problem in shared(problems, others)} if others else set()
    return tuple(problem for problem in problems if problem.id not in same) if same else problems


def _file(source: JsonlProblems) -> Path:
    """The file as a path, or a ValueError that says how to get or to give one."""
    name, path = source.name, source.path
    if path and not Path(path).is_absolute():
        raise ValueError(f"path of {name} must be absolute, got {path!r}: the node does not know your folder")
    if path and Path(path).is_file():
        return Path(path)
    fetch = f"run `tokensweep data fetch {name}` on a machine with internet and copy the file to "
    raise ValueError(
        (f"{name} must be a JSONL file, but {path} is none: " if path else f"{name} has no file: ")
        + (f"{fetch}{path or f'<store>/data/{name}.jsonl'}, or " if source.hub else "")
        + "give data.path=FILE (for an evaluation suite eval.path=FILE), "
        "a JSONL file with id, problem and answer on every line"
    )


@lru_cache(maxsize=16)
def _read(file: Path, size: int, changed: int) -> tuple[Problem, ...]:
    """The rows; size and time of change only key the cache."""
    found: dict[str, Problem] = {}
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} must be text in UTF-8, but byte {error.start} is not: is it compressed, or not JSONL?"
        ) from None
    for number, line in enumerate(text.split("\n"), start=1):
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
    gold = unwrap(str(answer))  # files give it bare, within dollar signs or boxed
    if isinstance(answer, bool) or not isinstance(answer, str | int) or not 1 <= len(gold) <= LONGEST:
        raise ValueError(
            f"{where}: answer must be a text of at most {LONGEST} characters or an integer, "
            f"got {str(answer)[:80]!r}"
        )
    return Problem(id=str(row["id"]), prompt=prompt, answer=gold)
