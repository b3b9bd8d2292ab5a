"""Bringing a problem set from the hub to a local file, whole or not at all.

Beside ``<name>.jsonl`` lies ``<name>.source.json``: which dataset, which commit, what became of its rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokensweep.data.convert import Converted, Row, convert
from tokensweep.files import write_json, write_text
from tokensweep.problems.checks import findings
from tokensweep.problems.jsonl import JsonlProblems

_ROWS_AT_A_TIME = 10_000


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """The rows of a dataset at one commit."""

    commit: str
    rows: Iterable[Row]


Download = Callable[[JsonlProblems], Downloaded]


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file that is there now, and how it came about in one sentence."""

    file: Path
    told: str


def fetch(source: JsonlProblems, target: Path, *, force: bool, download: Download) -> Fetched:
    """Write the problems of a known set to ``target`` unless they are there.

    Raises ValueError, having written nothing, when the set has no hub dataset, the hub is not reached, the
    rows are not what is known of the set, or ``target`` is a different file and ``force`` is not given.
    """
    if not source.hub:
        raise ValueError(
            f"{source.name} has no dataset on the hub: bring a JSONL file, id, problem and answer per line"
        )
    before = _known_content(source, target)
    if before and not force:
        return Fetched(file=target, told=f"already there ({before})")
    got = download(source)
    converted = convert(got.rows, kind=source.hub_rows, name=source.name)
    if wrong := findings(converted.problems, source.expected):
        raise ValueError(
            f"{source.hub} at {got.commit[:12]} is not {source.name}: it {'; it '.join(wrong)}. Nothing was "
            "written; take another commit with revision=COMMIT, or bring the file yourself"
        )
    text = _jsonl(converted, hub=source.hub)
    if target.is_file() and target.read_text(encoding="utf-8") != text and not force:
        raise ValueError(
            f"{target} is there and differs from {source.hub} at {got.commit[:12]}: it was left as it is; "
            "force=true replaces it, to=FOLDER writes elsewhere"
        )
    write_text(target, text)
    write_json(manifest_of(target), _manifest(source, got.commit, converted, text))
    return Fetched(file=target, told=_told(source, got.commit, converted))


def manifest_of(file: Path) -> Path:
    """Where the origin of a fetched file is written."""
    return file.with_suffix(".source.json")


def from_hub(source: JsonlProblems) -> Downloaded:
    """The rows of the set's dataset by the library ``datasets``, at the pinned commit or the newest.

    Raises ValueError in one sentence when the hub is not reached or does not have it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # The HTTP library changes with the version of huggingface_hub; its base error is always this one.
    no_connection: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        commit = HfApi().dataset_info(source.hub, revision=source.revision, timeout=20).sha
        assert commit is not None
        return Downloaded(commit=commit, rows=list(_rows(source, commit)))
    except HfHubHTTPError as error:
        raise ValueError(
            f"the hub does not give {source.hub} at {source.revision or 'its newest commit'} "
            f"({type(error).__name__}): {_by_hand(source)}"
        ) from error
    except (OSError, no_connection) as error:
        raise ValueError(f"the hub was not reached ({type(error).__name__}): {_by_hand(source)}") from error


def _rows(source: JsonlProblems, commit: str) -> Iterator[Row]:
    from datasets import load_dataset

    subset = source.hub_subset or None
    dataset = load_dataset(source.hub, subset, split=source.hub_split, revision=commit)
    for table in dataset.with_format("arrow").iter(batch_size=_ROWS_AT_A_TIME):
        yield from table.to_pylist()


def _by_hand(source: JsonlProblems) -> str:
    return (
        f"run `tokensweep data fetch {source.name} to=.` on a machine with internet and copy "
        f"{source.name}.jsonl to the store's folder data, or give your own file with data.path=FILE"
    )


def _known_content(source: JsonlProblems, target: Path) -> str:
    """The commit of a file that a fetch wrote and nobody changed, if it is the one asked for; else empty."""
    path = manifest_of(target)
    if not target.is_file() or not path.is_file():
        return ""
    manifest = json.loads(path.read_text())
    untouched = hashlib.sha256(target.read_bytes()).hexdigest() == manifest["sha256"]
    asked_for = manifest["hub"] == source.hub and source.revision in (None, manifest["revision"])
    return f"{source.hub} at {manifest['revision'][:12]}" if untouched and asked_for else ""


def _jsonl(converted: Converted, *, hub: str) -> str:
    rows = [
        {"id": problem.id, "problem": problem.prompt, "answer": problem.answer, "source": hub}
        for problem in converted.problems
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _manifest(source: JsonlProblems, commit: str, converted: Converted, text: str) -> Mapping[str, Any]:
    return {
        "hub": source.hub,
        "subset": source.hub_subset,
        "split": source.hub_split,
        "revision": commit,
        "rows": converted.rows,
        "problems": len(converted.problems),
        "repeated": converted.repeated,
        "unanswered": converted.unanswered,
        "disagreeing": converted.disagreeing,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "fetched": datetime.now(UTC).date().isoformat(),
    }


def _told(source: JsonlProblems, commit: str, converted: Converted) -> str:
    left_out = (
        (converted.repeated, "copies merged"),
        (converted.unanswered, "rows without an answer skipped"),
        (converted.disagreeing, "problems with contradicting answers dropped"),
    )
    rest = "".join(f", {count} {what}" for count, what in left_out if count)
    origin = f"{converted.rows} rows of {source.hub} at {commit[:12]}"
    return f"{len(converted.problems)} problems from {origin}{rest}"
