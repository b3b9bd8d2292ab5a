"""Per-question tables that MLflow's evaluation view lays side by side. For the syncer.

The format is what ``MlflowClient.log_table`` writes: columns and rows as JSON, and a tag that lists the
tables. That view groups rows by the first column and compares the second, so their order is a choice, and it
joins rows of several runs by the text of the first column, so that names benchmark and question.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensweep.mlflow_client import Client
from tokensweep.mlflow_runs import digest_of, log, upload

if TYPE_CHECKING:
    from tokensweep_analysis.runs import Scored

FILE = "questions.json"
LIST_TAG = "mlflow.loggedArtifacts"
COLUMNS = (
    "question",
    "avg@n",
    "correct",
    "samples",
    "majority_right",
    "truncated_fraction",
    "length_mean",
    "benchmark",
    "question_id",
)
_SOURCE_TAG = "tokensweep.questions_of"
_DIGEST_TAG = "tokensweep.questions"
_DIGITS = 4


def sync_questions(client: Client, run: Any, run_dir: Path, scored: Mapping[str, Scored]) -> None:
    """Log the table of a run's evaluations, if they are others than at the last sync."""
    if not scored:
        return
    folders = {run_dir / "evals" / f"{each.suite}-{eval_id}": each for eval_id, each in scored.items()}
    source = digest_of(*COLUMNS, *(part for item in folders.items() for part in _content(*item)))
    if run.data.tags.get(_SOURCE_TAG) == source:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        path.write_text(json.dumps(question_table(scored.values())), encoding="utf-8")
        upload(client, run, [path], tag=_DIGEST_TAG)
    listed = json.dumps([{"path": FILE, "type": "table"}])
    log(client, run, tags={LIST_TAG: listed, _SOURCE_TAG: source})


def question_table(evaluations: Iterable[Scored]) -> dict[str, list[Any]]:
    """Columns and rows, a row per benchmark and question; shares are between 0 and 1, lengths in tokens."""
    rows: dict[str, list[Any]] = {}
    for scored in evaluations:
        rows |= _rows(scored)
    return {"columns": list(COLUMNS), "data": [rows[question] for question in sorted(rows, key=_natural)]}


def _natural(name: str) -> list[tuple[int, str]]:
    """Puts q2 before q10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _content(folder: Path, scored: Scored) -> list[str]:
    """What tells an evaluation from a later state of it: files of samples are added, never changed."""
    from tokensweep_analysis.samples import sample_files

    files = [f"{path.name} {path.stat().st_size}" for path in sample_files(folder)]
    return [folder.name, str(scored.num_samples), *files]


def _rows(scored: Scored) -> dict[str, list[Any]]:
    columns = zip(
        scored.questions,
        scored.num_correct.tolist(),
        scored.majority_at(scored.num_samples).tolist(),
        scored.truncated_by_question.tolist(),
        scored.length_by_question.tolist(),
        strict=True,
    )
    return {
        (name := f"{scored.suite}/{question}"): [
            name,
            round(correct / scored.num_samples, _DIGITS),
            correct,
            scored.num_samples,
            round(majority, _DIGITS),
            round(truncated, _DIGITS),
            round(length, 1),
            scored.suite,
            question,
        ]
        for question, correct, majority, truncated, length in columns
    }
