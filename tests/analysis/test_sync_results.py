"""MLflow shows what the report of a sweep says: summary runs, saved views, verdicts and answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.analysis.report_files import CLAIMS, CONTRASTS, RANKING, mean_row, write_report_files, write_table

from tokensweep.mlflow_client import connect
from tokensweep.mlflow_view import TAG, decode
from tokensweep.sync import sync_all, sync_sweep

Make = Callable[..., None]

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:DeprecationWarning",  # mlflow 3.17 with sqlalchemy 2.1
    "ignore::ResourceWarning",  # mlflow keeps its connections until the process ends
)


@pytest.fixture
def report(store: Path) -> Path:
    """The report of the sweep ``demo``."""
    folder = store / "sweeps" / "demo" / "report"
    write_report_files(folder)
    return folder


def _runs(uri: str) -> dict[str, Any]:
    """MLflow runs by the key of what they show."""
    client = connect(uri, artifacts=Path("unused"))
    return {run.data.tags["tokensweep.run_id"]: run for run in client.runs(client.experiment("demo"))}


def _tags(uri: str) -> dict[str, str]:
    client = connect(uri, artifacts=Path("unused"))
    return client.experiment_tags(client.experiment("demo"))


def _everything(uri: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Tags of the experiment, and of each run its parameters, tags, state, metrics and files."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return _tags(uri), {
        key: (
            run.info.run_id,
            run.info.run_name,
            run.info.status,
            run.info.end_time,
            run.data.params,
            run.data.tags,
            {name: len(client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics},
            run.data.metrics,
        )
        for key, run in _runs(uri).items()
    }


def _artifact(uri: str, key: str, name: str, folder: Path) -> str:
    from mlflow import MlflowClient

    path = MlflowClient(uri).download_artifacts(_runs(uri)[key].info.run_id, name, str(folder))
    return Path(path).read_text(encoding="utf-8")


def test_an_arm_has_one_run_with_means_ends_differences_and_p(store: Path, uri: str, report: Path) -> None:
    sync_sweep(store, "demo", uri=uri)
    runs = _runs(uri)
    top = runs["arm:demo:ops:top"]
    assert {name: value for name, value in top.data.metrics.items() if "pooled" not in name} == {
        "ops/pass_at_1": 0.625,
        "ops/pass_at_1/ci_low": 0.5,
        "ops/pass_at_1/ci_high": 0.75,
        "ops/pass_at_4": 1.0,
        "difference/ops/pass_at_1": 0.125,
        "difference/ops/pass_at_1/ci_low": -0.125,
        "difference/ops/pass_at_1/ci_high": 0.375,
        "p/ops/pass_at_1": 0.25,
        "p_holm/ops/pass_at_1": 0.5,
    }
    assert (top.info.run_name, top.info.status) == ("top (mean of 2)", "FINISHED")
    shown = {
        key: top.data.tags[key] for key in ("kind", "sweep", "setting", "arm", "baseline", "runs", "estimand")
    }
    assert shown == {
        "kind": "arm",
        "sweep": "demo",
        "setting": "ops",
        "arm": "top",
        "baseline": "all",
        "runs": "2/3",
        "estimand": "E4",
    }
    assert not [name for name in runs["arm:demo:ops:all"].data.metrics if "difference" in name]


def test_only_the_k_that_was_asked_for_becomes_a_metric(store: Path, uri: str, report: Path) -> None:
    sync_sweep(store, "demo", uri=uri)
    names = set(_runs(uri)["arm:demo:ops:all"].data.metrics)
    assert "ops/pass_at_4" in names  # the evaluations of the store ask for k = 1 and 4
    assert "ops/pass_at_3" not in names


def test_syncing_a_report_twice_changes_nothing(store: Path, uri: str, report: Path) -> None:
    sync_sweep(store, "demo", uri=uri)
    before = _everything(uri)
    assert sync_sweep(store, "demo", uri=uri).points == 0
    assert _everything(uri) == before


def test_a_lost_database_is_rebuilt_with_views_summaries_verdicts_and_tables(
    store: Path, uri: str, report: Path, migrated: Path
) -> None:
    sync_sweep(store, "demo", uri=uri)
    tags, runs = _everything(uri)
    other = f"sqlite:///{store / 'other.db'}"
    shutil.copy(migrated, store / "other.db")
    sync_all(store, uri=other)
    again, others = _everything(other)
    assert {key: (run[1], run[2], run[4], run[7]) for key, run in others.items()} == {
        key: (run[1], run[2], run[4], run[7]) for key, run in runs.items()
    }
    views = [name for name in tags if name.startswith(TAG)]
    assert len(views) == 3
    baseline = {tags_["arm:demo:ops:all"][0]: "baseline" for tags_ in (runs, others)}
    for name in views:
        texts = [json.dumps(decode(each[name])[1]) for each in (tags, again)]
        for run_id in baseline:
            texts = [text.replace(run_id, "baseline") for text in texts]
        assert texts[0] == texts[1]
    assert _artifact(other, "a0", "questions.json", store) == _artifact(uri, "a0", "questions.json", store)


def test_a_number_that_the_report_took_back_is_shown_no_longer(store: Path, uri: str, report: Path) -> None:
    sync_sweep(store, "demo", uri=uri)
    write_table(report / "contrasts.csv", CONTRASTS, [])
    sync_sweep(store, "demo", uri=uri)
    names = set(_runs(uri)["arm:demo:ops:top"].data.metrics)
    assert "ops/pass_at_1" in names
    assert not [name for name in names if name.startswith(("difference/", "p/", "p_holm/"))]


def test_the_name_of_a_summary_follows_its_runs_and_an_arm_that_is_gone_goes(
    store: Path, uri: str, report: Path
) -> None:
    sync_sweep(store, "demo", uri=uri)
    write_table(report / "ranking.csv", RANKING, [mean_row("all", "pass_at_1", 0.5, runs=3)])
    sync_sweep(store, "demo", uri=uri)
    arms = {key: run.info.run_name for key, run in _runs(uri).items() if key.startswith("arm:")}
    assert arms == {"arm:demo:ops:all": "all (mean of 3)"}


def test_a_run_whose_arm_has_another_name_is_made_again(
    store: Path, uri: str, report: Path, make_sweep: Make
) -> None:
    sync_sweep(store, "demo", uri=uri)
    before = _runs(uri)["a0"]
    make_sweep(store, [("every", 0, "a0"), ("top", 0, "t0")], baseline="every")
    for name in ("ranking.csv", "contrasts.csv", "claims.csv"):
        (report / name).unlink()
    sync_sweep(store, "demo", uri=uri)
    run = _runs(uri)["a0"]
    assert (run.info.run_name, run.data.params["arm"]) == ("ops every seed 0", "every")
    assert run.data.metrics == before.data.metrics


def test_verdicts_are_tags_of_the_report_and_notes_begin_with_them_and_the_views(
    store: Path, uri: str, report: Path
) -> None:
    sync_sweep(store, "demo", uri=uri)
    run = _runs(uri)["sweep:demo"]
    assert run.data.tags["verdict.top_not_worse"] == "inconclusive"
    first, _, views, _, *rest = _tags(uri)["mlflow.note.content"].splitlines()
    link = f"[Report](#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/report.html?"
    assert first.startswith(link)
    assert first.endswith("), verdicts: 1 inconclusive")
    assert views.startswith("Views: [tokensweep: demo](#/experiments/")
    assert rest == ["- inconclusive: top_not_worse"]  # what stands above the runs is no longer than this
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith(_tags(uri)["mlflow.note.content"])
    assert note.endswith("# demo\n\nQuestion: Do few tokens carry the signal?\n")


def test_a_claim_that_is_judged_in_two_settings_has_two_tags(store: Path, uri: str, report: Path) -> None:
    verdicts = {"ops": "inconclusive", "sums": "refuted"}
    claims = [{"id": "better", "setting": name, "verdict": verdict} for name, verdict in verdicts.items()]
    write_table(report / "claims.csv", CLAIMS, claims)
    sync_sweep(store, "demo", uri=uri)
    tags = _runs(uri)["sweep:demo"].data.tags
    assert {name: value for name, value in tags.items() if name.startswith("verdict.")} == {
        "verdict.better.ops": "inconclusive",
        "verdict.better.sums": "refuted",
    }


def test_what_is_pooled_over_one_benchmark_is_its_own(store: Path, uri: str, report: Path) -> None:
    rows = [
        mean_row("all", "pass_at_1", 0.5, low=0.25, high=0.75),
        mean_row("all", "pass_at_1", 0.5, setting="two"),
        mean_row("all", "pass_at_1", 0.1, setting="two", benchmark="sums"),
    ]
    write_table(report / "ranking.csv", RANKING, rows)
    sync_sweep(store, "demo", uri=uri)
    runs = _runs(uri)
    assert runs["arm:demo:ops:all"].data.metrics["pooled/pass_at_1/ci_low"] == 0.25
    assert not [name for name in runs["arm:demo:two:all"].data.metrics if name.startswith("pooled")]
    assert runs["arm:demo:two:all"].info.run_name == "two all (mean of 2)"


def test_a_long_report_is_cut_where_mlflow_would(store: Path, uri: str, report: Path) -> None:
    (report / "report.md").write_text("# demo\n" + "all work and no play\n" * 1000)
    sync_sweep(store, "demo", uri=uri)
    note = _runs(uri)["sweep:demo"].data.tags["mlflow.note.content"]
    assert len(note) == 8000
    assert note.endswith("... continued in report.md")


def test_every_file_of_the_report_is_an_artefact(store: Path, uri: str, report: Path) -> None:
    sync_sweep(store, "demo", uri=uri)
    assert _artifact(uri, "sweep:demo", "report.html", store) == (report / "report.html").read_text()
    for name in ("ranking.csv", "contrasts.csv", "claims.csv", "report.md"):
        assert _artifact(uri, "sweep:demo", name, store) == (report / name).read_text()


def test_a_damaged_table_is_reported_and_the_runs_are_there(store: Path, uri: str, report: Path) -> None:
    (report / "ranking.csv").write_text("arm,value\nall,1\n")
    found = sync_sweep(store, "demo", uri=uri)
    assert any("ranking.csv must have the columns setting, arm" in problem for problem in found.problems)
    assert {"a0", "t1"} <= set(_runs(uri))


def test_a_table_of_questions_is_as_log_table_writes_it(store: Path, uri: str) -> None:
    sync_sweep(store, "demo", uri=uri)
    table = json.loads(_artifact(uri, "a0", "questions.json", store))
    # 4, 2 and 0 of 4 are correct; in the tie 2 : 2 the majority is right in half of the draws.
    assert table == {
        "columns": [
            "question",
            "avg@n",
            "correct",
            "samples",
            "majority_right",
            "truncated_fraction",
            "length_mean",
            "benchmark",
            "question_id",
        ],
        "data": [
            ["ops/q0", 1.0, 4, 4, 1.0, 0.0, 10.0, "ops", "q0"],
            ["ops/q1", 0.5, 2, 4, 0.5, 0.0, 10.0, "ops", "q1"],
            ["ops/q2", 0.0, 0, 4, 0.0, 0.0, 10.0, "ops", "q2"],
        ],
    }
    tag = _runs(uri)["a0"].data.tags["mlflow.loggedArtifacts"]
    assert json.loads(tag) == [{"path": "questions.json", "type": "table"}]


def test_mlflow_reads_the_table_of_questions_as_one_of_its_own(
    store: Path, uri: str, make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    make_run(store, "a0", correct=[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0])
    sync_sweep(store, "demo", uri=uri)
    run = _runs(uri)["a0"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # load_table searches there, whatever its client
    table = MlflowClient(uri).load_table(run.info.experiment_id, "questions.json", [run.info.run_id])
    assert list(table["question"])[-2:] == ["ops/q9", "ops/q10"]
    assert list(table["correct"])[-2:] == [4, 0]


def test_a_view_that_somebody_changed_stays_and_one_that_is_lost_comes_back(
    store: Path, uri: str, report: Path
) -> None:
    sync_sweep(store, "demo", uri=uri)
    client = connect(uri, artifacts=Path("unused"))
    experiment = client.experiment("demo")
    before = _tags(uri)
    client.tag_experiment(experiment, {f"{TAG}tokensweep": "changed in the UI"})
    client.untag_experiment(experiment, f"{TAG}tokensweep-runs")
    sync_sweep(store, "demo", uri=uri)
    after = _tags(uri)
    assert after[f"{TAG}tokensweep"] == "changed in the UI"
    assert decode(after[f"{TAG}tokensweep-runs"])[1] == decode(before[f"{TAG}tokensweep-runs"])[1]


def test_the_sync_says_where_its_view_is(store: Path, uri: str, report: Path) -> None:
    found = sync_sweep(store, "demo", uri=uri)
    assert found.view.startswith("http://127.0.0.1:5000/#/experiments/")
    assert "viewStateShareKey=tokensweep&" in found.view
    assert str(found).endswith(f"view {found.view}")
