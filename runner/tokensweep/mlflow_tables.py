"""Per-question tables that MLflow's evaluation view lays side by side. For the syncer.

The format is what ``MlflowClient.log_table`` writes: columns and rows as JSON, and a tag that lists the
tables. That view groups rows by the first column and compares the second, so their order is a choice, and it
joins rows of several runs by the text of the first column, so that names benchmark and question.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
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
    "avg",
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
        path.write_text(json.dumps(question_table(folders)), encoding="utf-8")
        upload(client, run, [path], tag=_DIGEST_TAG)
    listed = json.dumps([{"path": FILE, "type": "table"}])
    log(client, run, tags={LIST_TAG: listed, _SOURCE_TAG: source})


def question_table(folders: Mapping[Path, Scored]) -> dict[str, list[Any]]:
    """Columns and rows, a row per benchmark and question; shares are between 0 and 1, lengths in tokens."""
    rows: dict[str, list[Any]] = {}
    for folder, scored in folders.items():
        rows |= _rows(folder, scored)
    return {"columns": list(COLUMNS), "data": [rows[question] for question in sorted(rows, key=_natural)]}


def _natural(name: str) -> list[tuple[int, str]]:
    """Puts q2 before q10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _content(folder: Path, scored: Scored) -> list[str]:
    """What tells an evaluation from a later state of it: files of samples are added, never changed."""
    from tokensweep_analysis.samples import sample_files

    files = [f"{path.name} {path.stat().st_size}" for path in sample_files(folder)]
    return [folder.name, str(scored.num_samples), *files]


def _rows(folder: Path, scored: Scored) -> dict[str, list[Any]]:
    from tokensweep_analysis.majority import maj_at_k
    from tokensweep_analysis.samples import read_samples

    frame = read_samples([folder], text=False)
    frame = frame[frame["sample_idx"] < scored.num_samples]
    truncated = (frame["finish_reason"] == "length").groupby(frame["question_id"]).mean()
    length = frame["n_output_tokens"].groupby(frame["question_id"]).mean()
    rows = {}
    for question, votes in zip(scored.questions, scored.votes, strict=True):
        name = f"{scored.suite}/{question}"
        rows[name] = [
            name,
            round(votes.num_correct / votes.num_samples, _DIGITS),
            votes.num_correct,
            votes.num_samples,
            round(maj_at_k(votes, votes.num_samples), _DIGITS),
            round(float(truncated[question]), _DIGITS),
            round(float(length[question]), 1),
            scored.suite,
            question,
        ]
    return rows
