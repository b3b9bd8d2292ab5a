"""What an MLflow run lacks is sent, what it shows already is not. For the modules that project a sweep.

Repeating any call here changes nothing, and nothing leaves without the redactor.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensweep.mlflow_client import Client
from tokensweep.redact import redact, redactor

KEY = "tokensweep.run_id"  # the tag that says what an MLflow run shows
NOTE = "mlflow.note.content"  # Markdown on the page of a run or an experiment
NOTE_CHARACTERS = 8000  # MLflow's limit for a tag of a run
COLOR = "mlflow.runColor"
# Okabe and Ito, Color Universal Design, 2008: told apart by colour-blind people too.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_POINTS_PER_BATCH = 1000  # MLflow's limits
_PARAMS_PER_BATCH = 100


@dataclass(frozen=True)
class Point:
    """A metric value of a run."""

    name: str
    value: float
    timestamp: int  # milliseconds
    step: int


class Experiment:
    """An MLflow experiment with its runs by the key of what they show."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.id = client.experiment(name)
        self._runs = {run.data.tags[KEY]: run for run in client.runs(self.id) if KEY in run.data.tags}

    def run(self, key: str, *, name: str, start: float) -> Any:
        """The MLflow run of a key under this name, made if missing; ``start`` in seconds."""
        shown = redact(name)
        if key not in self._runs:
            self._runs[key] = self.client.create_run(
                self.id, start_time=milliseconds(start), run_name=shown, tags={KEY: key}
            )
        run = self._runs[key]
        if run.info.run_name != shown:
            self.client.rename(run.info.run_id, shown)
        return run

    def known(self, key: str) -> Any:
        """The MLflow run of a key that is there, as it was found."""
        return self._runs[key]

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin with ``prefix``."""
        return [key for key in self._runs if key.startswith(prefix)]

    def drop(self, key: str) -> None:
        """Delete the run of a key: MLflow can neither change a parameter nor take a metric back."""
        self.client.delete_run(self._runs.pop(key).info.run_id)


def log(
    client: Client,
    run: Any,
    *,
    params: Mapping[str, str] | None = None,
    points: Sequence[Point] = (),
    tags: Mapping[str, str] | None = None,
) -> None:
    """Send what the MLflow run lacks, within the limits of a batch and without secrets."""
    clean = redactor()
    shown = {legal_name(name): clean(value) for name, value in (params or {}).items()}
    new_params = {name: value for name, value in shown.items() if name not in run.data.params}
    told = {name: clean(value) for name, value in (tags or {}).items()}
    new_tags = {name: value for name, value in told.items() if run.data.tags.get(name, "") != value}
    for batch in _batches(list(new_params.items()), _PARAMS_PER_BATCH):
        client.log(run.info.run_id, params=dict(batch))
    for chunk in _batches(list(points), _POINTS_PER_BATCH):
        client.log(run.info.run_id, metrics=[(p.name, p.value, p.timestamp, p.step) for p in chunk])
    if new_tags:
        client.log(run.info.run_id, tags=new_tags)
    run.data.params.update(new_params)
    run.data.metrics.update((point.name, point.value) for point in points)
    run.data.tags.update(new_tags)


def bars(values: Mapping[str, float], *, known: Mapping[str, float]) -> list[Point]:
    """The values that MLflow does not show yet, at step 0: it draws those as bars."""
    now = milliseconds(time.time())
    named = {legal_name(name): value for name, value in values.items()}
    return [Point(name, value, now, 0) for name, value in named.items() if known.get(name) != value]


def upload(client: Client, run: Any, files: Sequence[Path], *, tag: str = "tokensweep.artifacts") -> bool:
    """Log text files whose content changed since the last sync, without secrets; ``tag`` remembers it."""
    clean = redactor()
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    shown = {path: clean(text) for path, text in texts.items()}
    digest = digest_of(*(part for path, text in shown.items() for part in (path.name, text)))
    if run.data.tags.get(tag, digest_of()) == digest:
        return False
    with tempfile.TemporaryDirectory() as folder:
        for path, text in shown.items():
            copy = Path(folder) / path.name
            copy.write_text(text, encoding="utf-8")
            client.log_artifact(run.info.run_id, path if text == texts[path] else copy)
    log(client, run, tags={tag: digest})
    return True


def set_status(client: Client, run: Any, status: str, *, ended: float | None) -> None:
    """Set state and end of a run, in seconds, where they are others."""
    end_time = milliseconds(ended) if ended else None
    if run.info.status != status or (end_time is not None and run.info.end_time != end_time):
        client.set_status(run.info.run_id, status, end_time=end_time)


def color_of(place: int) -> str:
    """The colour of the arm at this place in its sweep, empty when there are no more colours."""
    return _COLORS[place] if place < len(_COLORS) else ""


def legal_name(name: str) -> str:
    """A metric or parameter name that MLflow takes: ``pass@8`` becomes ``pass_at_8``."""
    return re.sub(r"[^/\w.\- :]", "_", name.replace("@", "_at_"))


def digest_of(*parts: str) -> str:
    """A short hash of texts, to see whether they changed."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def milliseconds(seconds: float) -> int:
    """A time as MLflow takes it."""
    return int(seconds * 1000)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
