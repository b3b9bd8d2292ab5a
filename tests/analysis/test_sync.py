"""MLflow shows what the run folders say, however often and from wherever it is synced."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tokensweep.ledger import Attempt
from tokensweep.mlflow_client import Client, connect
from tokensweep.redact import redact
from tokensweep.sync import ADHOC, check_uri, flatten, legal_name, sync_all, sync_runs, sync_sweep
from tokensweep_analysis.report import write_report
from tokensweep_analysis.tables import compare

Make = Callable[..., None]

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:DeprecationWarning",  # mlflow 3.17 with sqlalchemy 2.1
    "ignore::ResourceWarning",  # mlflow keeps its connections until the process ends
)


def _uri(path: Path) -> str:
    return f"sqlite:///{path}"


def _runs(uri: str, experiment: str = "demo") -> dict[str, Any]:
    """MLflow runs by the run folder they show."""
    client = _client(uri)
    return {run.data.tags["tokensweep.run_id"]: run for run in client.runs(client.experiment(experiment))}


def _client(uri: str) -> Client:
    return connect(uri, artifacts=Path("unused"))


def _state(uri: str) -> dict[str, Any]:
    """Everything that MLflow shows: parameters, tags, states and whole metric histories."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return {
        key: (
            run.info.run_id,
            run.info.status,
            run.info.end_time,
            run.data.params,
            run.data.tags,
            {
                name: [
                    (p.step, p.value, p.timestamp) for p in client.get_metric_history(run.info.run_id, name)
                ]
                for name in run.data.metrics
            },
            [file.path for file in client.list_artifacts(run.info.run_id)],
        )
        for key, run in _runs(uri).items()
    }


def test_a_finished_run_shows_its_identity_metrics_and_results(store: Path, uri: str) -> None:
    report = sync_sweep(store, "demo", uri=uri)
    run = _runs(uri)["a0"]
    assert run.data.params == {
        "seed": "0",
        "batch.prompts": "8",
        "method.ratio": "method/ratio/holder",
        "method.ratio.p": "2.0",
        "setting": "ops",
        "arm": "all",
    }
    assert (run.info.status, run.info.run_name) == ("FINISHED", "ops all seed 0")
    named = ("method", "paper", "evidence", "applies_to")
    assert [run.data.tags[key] for key in named] == ["holderpo", "arXiv:2605.12058", "code", "any"]
    assert {key: run.data.tags[key] for key in ("sweep", "arm", "kind", "status", "attempt")} == {
        "sweep": "demo",
        "arm": "all",
        "kind": "train",
        "status": "finished",
        "attempt": "0",
    }
    assert run.data.metrics["reward"] == pytest.approx(0.4)
    # 4, 2, 0 correct of 4: pass@1 = 6 / 12, pass@4 = 2 / 3.
    assert run.data.metrics["final/ops/pass_at_1"] == pytest.approx(0.5)
    assert run.data.metrics["final/ops/pass_at_4"] == pytest.approx(2 / 3)
    # All four drawn: all right in one question, a majority there and in half of the tie 2 : 2 of the next.
    assert run.data.metrics["final/ops/pass_hat_4"] == pytest.approx(1 / 3)
    assert run.data.metrics["final/ops/maj_at_4"] == pytest.approx(1.5 / 3)
    assert run.data.metrics["final/ops/cover_at_0.5"] == pytest.approx(2 / 3)
    assert run.data.metrics["final/ops/guess_floor_at_1"] == pytest.approx(0.1)
    # There is one benchmark: what is pooled over all of them is its own.
    assert run.data.metrics["pooled/pass_at_1"] == run.data.metrics["final/ops/pass_at_1"]
    # Four runs with 4 steps x 3 metrics, 12 results, the same pooled, and seconds; the failed run has none.
    assert (report.runs, report.points) == (5, 4 * (12 + 12 + 12 + 1))
    assert (report.problems, report.delayed) == ((), "")


def test_no_secret_of_an_older_store_reaches_mlflow(
    store: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    secret = "hf_AbCdEf0123456789"
    for path in store.glob("runs/*/*.json"):  # written before the variable was set
        path.write_text(path.read_text().replace('"batch"', f'"hub": "{secret}", "batch"'))
    failed = next(path for path in store.glob("runs/t2/attempts/*/events.jsonl"))
    failed.write_text(failed.read_text().replace("loss is NaN", f"GET http://me:word@host {secret}"))
    write_report(compare(store, "demo"), store / "sweeps" / "demo" / "report")
    monkeypatch.setenv("HF_TOKEN", secret)
    sync_sweep(store, "demo", uri=uri)
    assert _runs(uri)["t2"].data.tags["error"].startswith("GET http://me:***@host ***HF_TOKEN*** at step 3")
    assert _runs(uri)["a0"].data.params["hub"] == "***HF_TOKEN***"
    client = MlflowClient(uri)
    folder = Path(client.download_artifacts(_runs(uri)["a0"].info.run_id, "", str(store / "back")))
    assert '"hub": "***HF_TOKEN***"' in (folder / "config.json").read_text()
    assert "***HF_TOKEN***" in _runs(uri)["sweep:demo"].data.tags["mlflow.note.content"]
    shown = [
        path for root in ("mlartifacts", "mlflow.db") for path in [store / root, *(store / root).rglob("*")]
    ]
    assert [path for path in shown if path.is_file() and secret.encode() in path.read_bytes()] == []
    before = _state(uri)
    sync_sweep(store, "demo", uri=uri)
    assert _state(uri) == before


def test_syncing_twice_changes_nothing(store: Path, uri: str) -> None:
    write_report(compare(store, "demo"), store / "sweeps" / "demo" / "report")
    sync_sweep(store, "demo", uri=uri)
    before = _state(uri)
    assert sync_sweep(store, "demo", uri=uri).points == 0
    assert _state(uri) == before


def test_points_that_were_sent_before_a_crash_are_not_doubled(store: Path, uri: str) -> None:
    sync_sweep(store, "demo", uri=uri)
    before = _state(uri)["a0"][5]["reward"]
    run = _runs(uri)["a0"]
    _client(uri).log(
        run.info.run_id, tags={"tokensweep.synced_step": "0"}
    )  # as if the sync had died before it
    sync_sweep(store, "demo", uri=uri)
    assert _state(uri)["a0"][5]["reward"] == before


def test_an_empty_database_is_filled_from_the_folders_alone(store: Path, uri: str, migrated: Path) -> None:
    sync_sweep(store, "demo", uri=uri)
    shutil.copy(migrated, store / "other.db")
    sync_all(store, uri=_uri(store / "other.db"))
    again = _runs(_uri(store / "other.db"))
    for key, run in _runs(uri).items():
        assert (again[key].data.params, again[key].data.metrics) == (run.data.params, run.data.metrics)


def _files(folder: Path) -> set[tuple[str, int]]:
    """Everything below a folder, with times of change."""
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize("is_moved", [False, True])
def test_the_database_of_a_copied_or_moved_store_writes_nothing_to_the_old_one(
    store: Path, uri: str, migrated: Path, tmp_path_factory: pytest.TempPathFactory, is_moved: bool
) -> None:
    assert not sync_sweep(store, "demo", uri=uri).delayed
    other = tmp_path_factory.mktemp("other") / "a store"
    (shutil.move if is_moved else shutil.copytree)(str(store), str(other))
    write_report(compare(other, "demo"), other / "sweeps" / "demo" / "report")  # a new artefact
    before = _files(store)
    delayed = sync_sweep(other, "demo", uri=_uri(other / "mlflow.db")).delayed
    assert f"{other}/mlflow.db is that of a store at {store} and would put files there: move it" in delayed
    assert _files(store) == before
    # As it says; under a new name, as this process has the other database open.
    again = shutil.copytree(other, other.with_name("again"), ignore=shutil.ignore_patterns("mlflow.db"))
    shutil.copy(migrated, again / "mlflow.db")
    assert sync_sweep(again, "demo", uri=_uri(again / "mlflow.db")).runs == 5
    assert _files(store) == before
    assert list((again / "mlartifacts" / "demo").rglob("report.md"))


def test_a_store_that_is_reached_by_another_name_is_the_same_store(
    store: Path, uri: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sync_sweep(store, "demo", uri=uri)
    link = tmp_path_factory.mktemp("other") / "link"
    link.symlink_to(store)
    assert not sync_sweep(link, "demo", uri=_uri(link / "mlflow.db")).delayed


def test_a_place_that_a_user_chose_for_artefacts_is_kept(store: Path, uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    chosen = tmp_path / "large disk"
    MlflowClient(uri).create_experiment("demo", artifact_location=chosen.as_uri())
    assert not sync_sweep(store, "demo", uri=uri).delayed
    assert list(chosen.rglob("sweep.json"))


def test_only_durable_steps_are_shown_and_a_dead_process_is_not_running(store: Path, uri: str) -> None:
    with Attempt.open(store / "runs" / "t3") as attempt:
        for step in (1, 2, 3):
            attempt.metrics(step, {"reward": 0.1 * step})
        attempt.event("checkpoint", step=2)
        sync_sweep(store, "demo", uri=uri)
        run = _runs(uri)["t3"]
        assert (run.info.status, run.data.metrics["reward"]) == ("RUNNING", pytest.approx(0.2))
    sync_sweep(store, "demo", uri=uri)  # closed without a word, as when it is killed
    assert _runs(uri)["t3"].info.status == "KILLED"


def test_a_retried_run_goes_from_failed_to_finished_in_the_same_mlflow_run(
    store: Path, uri: str, make_run: Make
) -> None:
    sync_sweep(store, "demo", uri=uri)
    failed = _runs(uri)["t2"]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["error"].startswith("loss is NaN")
    make_run(store, "t2", correct=[4, 1, 1], seed=2)
    sync_sweep(store, "demo", uri=uri)
    run = _runs(uri)["t2"]
    assert (run.info.run_id, run.info.status, run.data.tags["attempt"]) == (
        failed.info.run_id,
        "FINISHED",
        "1",
    )
    assert run.data.tags["error"] == ""


def test_the_report_of_the_sweep_is_on_a_run_of_its_own(store: Path, uri: str) -> None:
    write_report(compare(store, "demo"), store / "sweeps" / "demo" / "report")
    sync_sweep(store, "demo", uri=uri)
    run = _runs(uri)["sweep:demo"]
    assert run.data.tags["kind"] == "sweep"
    assert "\n# demo\n" in run.data.tags["mlflow.note.content"]
    assert sorted(_state(uri)["sweep:demo"][6]) == [
        *("claims.csv", "contrasts.csv", "ranking.csv"),
        *("report.md", "sweep.json"),
    ]


def test_runs_outside_of_a_sweep_go_to_the_adhoc_experiment(store: Path, uri: str, make_run: Make) -> None:
    make_run(store, "single", correct=[1, 2])
    sync_all(store, uri=uri)
    assert list(_runs(uri, ADHOC)) == ["single"]
    assert sync_runs(store, ["single"], uri=uri).points == 0


def test_a_damaged_run_folder_is_reported_and_the_others_are_synced(store: Path, uri: str) -> None:
    (store / "runs" / "a0" / "plan.json").write_text("{")
    report = sync_sweep(store, "demo", uri=uri)
    assert any("plan.json is damaged" in problem for problem in report.problems)
    assert "a1" in _runs(uri)


def test_a_server_that_does_not_answer_delays_the_sync_and_nothing_else(store: Path) -> None:
    uri = "http://someone:secret@127.0.0.1:9"  # the discard port: nobody listens
    check_uri(uri)
    report = sync_sweep(store, "demo", uri=uri)
    assert report.delayed.startswith("no answer within 5 s")
    assert "secret" not in str(report)


_SYNC = """
import sys
from pathlib import Path
from tokensweep.sync import sync_all
print(sync_all(Path(sys.argv[1]), uri=sys.argv[2]))
"""


@pytest.fixture
def processes(store: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts syncs of the store in processes of their own, all to the same missing database."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", _SYNC, str(store), _uri(store / "mlflow.db")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_first_syncs_at_once_make_one_database_that_works_and_print_nothing_else(
    store: Path, processes: Callable[[], subprocess.Popen[str]]
) -> None:
    both = [processes(), processes()]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        assert out.startswith("5 runs in sqlite:///")
    assert len(_runs(_uri(store / "mlflow.db"))) == 6


@pytest.mark.slow
def test_a_sync_that_is_killed_while_it_makes_the_database_leaves_none(
    store: Path, processes: Callable[[], subprocess.Popen[str]]
) -> None:
    process = processes()
    while not list(store.glob(".mlflow.db.*.partial")) and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (store / "mlflow.db").exists()
    out, _ = processes().communicate(timeout=120)
    assert out.startswith("5 runs in sqlite:///")
    assert not list(store.glob(".mlflow.db.*.partial"))


@pytest.mark.parametrize("uri", ["mlruns", "file:///srv/mlruns", "sqlite://", "ftp://host", ""])
def test_a_uri_that_can_never_work_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"tracking\.uri must be sqlite:///FILE"):
        check_uri(uri)


def test_an_sqlite_database_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is a text and no database")
    with pytest.raises(ValueError, match=r"text\.db is no sqlite database"):
        check_uri(_uri(tmp_path / "text.db"))
    with pytest.raises(ValueError, match="is a folder"):
        check_uri(_uri(tmp_path))
    with pytest.raises(ValueError, match="must be a file that can be written"):
        check_uri(_uri(tmp_path / "text.db" / "mlflow.db"))
    with pytest.raises(ValueError, match="must be a file that can be written"):
        check_uri("sqlite:////proc/none/mlflow.db")


def test_good_uris_are_taken_without_touching_anything(tmp_path: Path) -> None:
    for uri in (_uri(tmp_path / "mlflow.db"), "http://127.0.0.1:9", "postgresql+psycopg://user:word@host/db"):
        check_uri(uri)
    assert list(tmp_path.iterdir()) == []


def test_names_and_passwords_are_made_fit_to_show() -> None:
    assert legal_name("final/aime25/pass@8") == "final/aime25/pass_at_8"
    assert legal_name("schedule/p=2") == "schedule/p_2"
    assert redact("postgresql://me:word@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert flatten({"a": {"_component_": "data/ops", "b": {"c": 1}}, "d": [1]}) == {
        "a": "data/ops",
        "a.b.c": 1,
        "d": [1],
    }
