"""The few MLflow calls that a sync needs, with a database that is made once and errors that only delay.

mlflow is imported on the first connection: it costs a second and 160 MB that training must not pay.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from tokensweep.redact import redact

_SQLITE = "sqlite:///"
_DATABASES = ("postgresql", "mysql", "mssql")
_REACH_S = 5.0  # a server that does not answer its health check in this time is taken as not there
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # of 7, with backoff: minutes for a server that went away
}


class UnreachableError(Exception):
    """MLflow cannot be reached or refuses; the same sync works later."""


def check_uri(uri: str) -> None:
    """Raise ValueError, before any work starts, for a tracking URI that can never work.

    A server that does not answer is not refused: it may be up again when there is something to sync.
    """
    scheme = uri.partition(":")[0].partition("+")[0]
    if uri.startswith(_SQLITE):
        _check_sqlite(_sqlite_path(uri), uri)
    elif scheme not in ("http", "https", *_DATABASES) or "://" not in uri:
        raise ValueError(
            f"tracking.uri must be sqlite:///FILE, http(s)://HOST or a database URL, got {redact(uri)!r}: "
            "leave it empty for a database in the store"
        )


def connect(uri: str, *, artifacts: Path) -> Client:
    """A client for ``uri``; an sqlite database is made first when it is missing.

    ``artifacts`` is where files go when no server decides that. Raises UnreachableError without MLflow.
    """
    _reach(uri)
    for name, value in _QUIET.items():
        os.environ.setdefault(
            name, value
        )  # mlflow reads these when it is imported; a user's own choice stays
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with _delaying():
        if uri.startswith(_SQLITE):
            _create_once(_sqlite_path(uri), mlflow.MlflowClient)
        raw = mlflow.MlflowClient(tracking_uri=uri)
    own = uri.startswith(_SQLITE) and _sqlite_path(uri).resolve().parent == artifacts.resolve().parent
    return Client(raw, artifacts=None if uri.startswith("http") else artifacts, is_own=own)


class Client:
    """MLflow's client, reduced; every method raises UnreachableError when MLflow cannot do it now.

    ``is_own`` when the database lies beside ``artifacts``, in the store: it moves with the store.
    """

    def __init__(self, raw: Any, *, artifacts: Path | None, is_own: bool = False) -> None:
        self._raw = raw
        self._artifacts = artifacts
        self._is_own = is_own

    def experiment(self, name: str) -> str:
        """Id of the experiment ``name``, made if missing and restored if somebody deleted it.

        Refuses one whose files go to another store.
        """
        with _delaying():
            found = self._raw.get_experiment_by_name(name)
            if found is None:
                place = (self._artifacts / name).absolute().as_uri() if self._artifacts else None
                return str(self._raw.create_experiment(name, artifact_location=place))
            if self._artifacts and self._is_own:
                _refuse_foreign(self._artifacts, name, location=found.artifact_location)
            if found.lifecycle_stage == "deleted":
                self._raw.restore_experiment(found.experiment_id)
            return str(found.experiment_id)

    def experiment_tags(self, experiment_id: str) -> dict[str, str]:
        """The tags of an experiment."""
        with _delaying():
            return dict(self._raw.get_experiment(experiment_id).tags)

    def tag_experiment(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Set those tags of an experiment that have another value."""
        known = self.experiment_tags(experiment_id)
        with _delaying():
            for name, value in tags.items():
                if known.get(name, "") != value:
                    self._raw.set_experiment_tag(experiment_id, name, value)

    def untag_experiment(self, experiment_id: str, name: str) -> None:
        """Take a tag of an experiment away."""
        with _delaying():
            self._raw.delete_experiment_tag(experiment_id, name)

    def runs(self, experiment_id: str) -> list[Any]:
        """All runs of an experiment that are not deleted."""
        found: list[Any] = []
        token = None
        with _delaying():
            while True:
                page = self._raw.search_runs([experiment_id], max_results=1000, page_token=token)
                found.extend(page)
                token = page.token
                if not token:
                    return found

    def create_run(
        self, experiment_id: str, *, start_time: int, run_name: str, tags: Mapping[str, str]
    ) -> Any:
        """A new run; ``start_time`` in milliseconds."""
        with _delaying():
            return self._raw.create_run(
                experiment_id, start_time=start_time, run_name=run_name, tags=dict(tags)
            )

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log one batch; a metric is (name, value, timestamp in milliseconds, step)."""
        from mlflow.entities import Metric, Param, RunTag

        with _delaying():
            self._raw.log_batch(
                run_id,
                metrics=[Metric(*metric) for metric in metrics],
                params=[Param(name, value) for name, value in (params or {}).items()],
                tags=[RunTag(name, value) for name, value in (tags or {}).items()],
                synchronous=True,
            )

    def rename(self, run_id: str, name: str) -> None:
        """Give a run another name."""
        with _delaying():
            self._raw.update_run(run_id, name=name)

    def delete_run(self, run_id: str) -> None:
        """Delete a run; MLflow keeps it in its bin."""
        with _delaying():
            self._raw.delete_run(run_id)

    def log_artifact(self, run_id: str, path: Path) -> None:
        """Store a file with a run, in place of one of the same name."""
        with _delaying():
            self._raw.log_artifact(run_id, str(path))

    def set_status(self, run_id: str, status: str, *, end_time: int | None) -> None:
        """Set the state of a run; ``end_time`` in milliseconds for one that has ended."""
        with _delaying():
            if status == "RUNNING":
                self._raw.update_run(run_id, status=status)
            else:
                self._raw.set_terminated(run_id, status=status, end_time=end_time)


def _refuse_foreign(artifacts: Path, name: str, *, location: str) -> None:
    """A store that was copied or moved has a database that still sends files to where the store was.

    A place that a user gave an experiment, which does not end as ours do, is left alone.
    """
    parts = urlsplit(location)
    there = Path(unquote(parts.path))
    ours = (artifacts / name).parts[-1 - len(Path(name).parts) :]
    if parts.scheme not in ("", "file") or there.parts[-len(ours) :] != ours:
        return
    if there.resolve() != (artifacts / name).resolve():
        old = there.parents[len(ours) - 1]
        raise UnreachableError(
            f"{artifacts.parent / 'mlflow.db'} is that of a store at {old} and would put files there: move "
            "it away, then tokensweep sync --all makes it again from the runs"
        )


@contextmanager
def _delaying() -> Iterator[None]:
    """Turn whatever MLflow raises for a server, a database or a disk into UnreachableError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise UnreachableError(redact(str(error).strip().partition("\n")[0])) from error


def _reach(uri: str) -> None:
    """Ask a server whether it is there, once and briefly: MLflow itself would retry for minutes."""
    if not uri.startswith("http"):
        return
    parts = urlsplit(uri)
    plain = urlunsplit(
        parts._replace(netloc=parts.netloc.rpartition("@")[2])
    )  # urllib takes no user in a URL
    try:
        with urllib.request.urlopen(f"{plain.rstrip('/')}/health", timeout=_REACH_S):
            pass
    except urllib.error.HTTPError:
        pass  # it answers; what it thinks of us is MLflow's business
    except (OSError, ValueError) as error:
        raise UnreachableError(f"no answer within {_REACH_S:.0f} s ({error})") from error


def _sqlite_path(uri: str) -> Path:
    return Path(uri.removeprefix(_SQLITE).partition("?")[0])


def _check_sqlite(path: Path, uri: str) -> None:
    advice = f"{uri} must be a file that can be written"
    if path.name == "" or path.is_dir():
        raise ValueError(
            f"{advice}, but {path} is a folder: name a file, for example {_SQLITE}{path / 'mlflow.db'}"
        )
    try:
        there = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=there):  # sqlite writes its journal beside the database
            pass
        if path.exists():
            with path.open("r+b") as file:
                start = file.read(16)
            if start and start != b"SQLite format 3\0":
                raise ValueError(f"{advice}, but {path} is no sqlite database: choose another file")
    except OSError as error:
        raise ValueError(f"{advice}, but {error}: choose another file, or make it writable") from error


def _create_once(path: Path, client: Any) -> None:
    """Make the database beside its place and rename it: MLflow's 10 s of migrations may be interrupted, and
    two at once leave a database that no version can open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists() and path.stat().st_size > 0:
            return
        for left in path.parent.glob(f".{path.name}.*.partial"):
            left.unlink()
        partial = path.with_name(
            f".{path.name}.{os.getpid()}-{time.time_ns()}.partial"
        )  # mlflow caches by name
        client(tracking_uri=f"{_SQLITE}{partial}").search_experiments(max_results=1)
        partial.replace(path)
