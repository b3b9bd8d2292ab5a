"""What the sample files of one evaluation say, counted per question. For scores and rates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokensweep_analysis.certainty import Stated
from tokensweep_analysis.majority import VoteTable, normal_answer
from tokensweep_analysis.samples import GRADES, evaluate_again, read_coded, refuse_repeats
from tokensweep_analysis.wording import counted

_CONDITIONS = ("benchmark_revision", "decode_hash", "grader")  # must agree between runs that are compared
CONDITION_WORDS = {  # what a reader is told of them
    "benchmark_revision": "revision of the benchmark",
    "decode_hash": "decoding (temperature, top_p, max_tokens, template or engine)",
    "grader": "grader",
    "prompts": "prompts",
}
_ONE = ("run_id", "benchmark")  # of which a folder holds one
_COLUMNS = (
    *_ONE,
    *_CONDITIONS,
    "question_id",
    "sample_idx",
    "sampling_seed",
    "prompt_hash",
    "n_output_tokens",
    "finish_reason",
    "extracted",
    "grade",
    "confidence",
)

Floats = NDArray[np.float64]
_Number = TypeVar("_Number", np.int64, np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Counted:
    """Samples of Q questions, each with n samples."""

    questions: tuple[str, ...]  # ids, sorted
    votes: VoteTable
    stated: Stated | None  # how sure they are; None where too few say so
    conditions: Mapping[str, str]  # revision, decoding, grader, and a digest of the prompts
    avg_completed: float | None  # share of correct ones among samples that ended by themselves
    no_answer_fraction: float
    error_fraction: float
    truncated_by_question: Floats  # [Q] share of samples that hit the length limit
    length_by_question: Floats  # [Q] mean number of completion tokens
    distinct_by_question: NDArray[np.int64]  # [Q] samples with a sampling seed of their own


def count_samples(folder: Path, num_samples: int, *, num_questions: int | None = None) -> Counted:
    """The first ``num_samples`` samples of every question of an evaluation folder.

    Of a sample that is in several files the last file counts. ``num_questions`` is how many must be there,
    None where nobody knows. Raises ValueError naming the folder, and the question where it is about one, for
    missing questions and samples, a sample twice in one file, rows of several runs, unknown grades and files
    that cannot be read.
    """
    rows = _Rows.of(read_coded(folder, _COLUMNS), folder, num_samples)
    if num_questions is not None and num_questions != len(rows.questions):
        more = "" if len(rows.questions) < num_questions else "delete it, then "
        raise ValueError(
            f"{folder} must hold samples of {counted(num_questions, 'question')}, got "
            f"{len(rows.questions)}: {more}{evaluate_again(folder)}"
        )
    grade = rows.texts("grade")
    if unknown := sorted(set(grade.values) - GRADES):
        raise ValueError(
            f"{folder}: grade must be one of {sorted(GRADES)}, got {unknown}: "
            "tokensweep regrade SWEEP grades again"
        )
    correct = grade.equal("correct")
    truncated = rows.texts("finish_reason").equal("length")
    num_completed = truncated.size - int(truncated.sum())
    completed = float((correct & ~truncated).sum() / num_completed) if num_completed else None
    seeds = np.sort(rows.numbers("sampling_seed"), axis=1)
    answers = _answers(rows.texts("extracted"))
    confidence = rows.shares("confidence")
    return Counted(
        questions=rows.questions,
        votes=VoteTable.count(correct, answers),
        stated=None if confidence is None else Stated.of(confidence, correct=correct, answers=answers),
        conditions={name: rows.texts(name).present() for name in _CONDITIONS} | {"prompts": _prompts(rows)},
        avg_completed=completed,
        no_answer_fraction=float(grade.equal("no_answer").mean()),
        error_fraction=float(grade.equal("error").mean()),
        truncated_by_question=truncated.mean(axis=1),
        length_by_question=rows.numbers("n_output_tokens").mean(axis=1),
        distinct_by_question=1 + (seeds[:, 1:] != seeds[:, :-1]).sum(axis=1),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Texts:
    """A text column as codes [Q, n] into ``values``, -1 for null."""

    codes: NDArray[np.int64]
    values: tuple[str, ...]

    def equal(self, value: str) -> NDArray[np.bool_]:
        """Where the column says so, [Q, n]."""
        if value not in self.values:
            return np.zeros(self.codes.shape, dtype=np.bool_)
        same: NDArray[np.bool_] = self.codes == self.values.index(value)
        return same

    def present(self) -> str:
        """The values that occur, sorted, with ``+`` between them."""
        used = range(len(self.values)) if len(self.values) == 1 else np.unique(self.codes)
        return "+".join(sorted(self.values[code] for code in used))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """The rows that count, [Q, n]."""

    table: pa.Table
    questions: tuple[str, ...]
    place: NDArray[np.intp]  # [Q, n] row of the table
    in_order: bool  # whether the rows already stand like that

    @classmethod
    def of(cls, table: pa.Table, folder: Path, num_samples: int) -> _Rows:
        """Find every sample. Raises ValueError as :func:`count_samples` does."""
        if not len(table):
            raise ValueError(
                f"{folder} must hold {num_samples} samples of every question, got none: "
                f"{evaluate_again(folder)}"
            )
        for name in _ONE:
            if len(several := _dictionary(table, name)) > 1:
                raise ValueError(
                    f"{folder} must hold samples of one {name}, got {sorted(several)}: "
                    "move the files of the others away"
                )
        ids = _dictionary(table, "question_id")
        order = sorted(range(len(ids)), key=ids.__getitem__)
        rank = np.empty(len(ids), dtype=np.int64)
        rank[order] = np.arange(len(ids))
        question = rank[_codes(table, "question_id")]
        sample = table["sample_idx"].to_numpy()
        asked = np.flatnonzero((sample >= 0) & (sample < num_samples))
        place = np.full((len(ids), num_samples), -1, dtype=np.intp)
        if len(asked) > place.size:
            refuse_repeats(folder)
        place[question[asked], sample[asked]] = asked  # of several rows the last one stays
        missing = (place < 0).sum(axis=1)
        if missing.any():
            worst = int(missing.argmax())
            raise ValueError(
                f"{folder} must hold {num_samples} samples of every question, got "
                f"{num_samples - missing[worst]} of {ids[order[worst]]}: "
                f"{evaluate_again(folder)}"
            )
        flat = place.reshape(-1)
        in_order = len(flat) == len(table) and bool((flat == np.arange(len(flat))).all())
        return cls(table=table, questions=tuple(ids[i] for i in order), place=place, in_order=in_order)

    def texts(self, name: str) -> _Texts:
        """A text column."""
        return _Texts(
            codes=self._arranged(_codes(self.table, name)), values=tuple(_dictionary(self.table, name))
        )

    def numbers(self, name: str) -> NDArray[np.int64]:
        """A column of integers without nulls, [Q, n]."""
        return self._arranged(self.table[name].to_numpy())

    def shares(self, name: str) -> Floats | None:
        """A column of floats, [Q, n] with NaN for null; None where all are."""
        column = self.table[name]
        return self._arranged(column.to_numpy()) if column.null_count < len(column) else None

    def _arranged(self, column: NDArray[_Number]) -> NDArray[_Number]:
        return column.reshape(self.place.shape) if self.in_order else column[self.place]


def _codes(table: pa.Table, name: str) -> NDArray[np.int64]:
    """The codes of a dictionary column, -1 for null."""
    indices = table[name].chunk(0).indices
    if indices.null_count:
        indices = indices.fill_null(-1)
    codes: NDArray[np.int64] = indices.to_numpy().astype(np.int64)
    return codes


def _dictionary(table: pa.Table, name: str) -> list[Any]:
    values: list[Any] = table[name].chunk(0).dictionary.to_pylist()
    return values


def _answers(extracted: _Texts) -> NDArray[np.int64]:
    """A number for what each sample says after normalisation, [Q, n]; -1 where it says nothing."""
    texts = list(map(normal_answer, extracted.values))
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    if len(numbers) == len(texts):  # no two notations of one answer
        return extracted.codes
    return np.array([*map(numbers.__getitem__, texts), -1], dtype=np.int64)[extracted.codes]  # -1 is the last


def _prompts(rows: _Rows) -> str:
    """A digest of which prompt each question was asked with, the same for the same prompts."""
    prompt = rows.texts("prompt_hash")
    if (prompt.codes == prompt.codes[:, :1]).all():
        told = [[prompt.values[code]] for code in prompt.codes[:, 0].tolist()]
    else:
        told = [sorted({prompt.values[code] for code in row}) for row in prompt.codes.tolist()]
    lines = (f"{question}\t{' '.join(asked)}" for question, asked in zip(rows.questions, told, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
