"""Saved views in the format that MLflow's UI reads; tests/ui opens them in a browser."""

from __future__ import annotations

import base64
import json
import zlib

import pytest

from tokensweep.mlflow_training import axes_of
from tokensweep.mlflow_view import Layout, View, decode, encode, view_url, views_of

LAYOUT = Layout(
    sweep="demo",
    suites=("aime24", "aime25"),
    axes=("method.ratio.p",),
    curves=("reward",),
    metrics=(
        "final/aime24/pass_at_1",
        "final/aime25/length_mean",
        "final/aime25/pass_at_1",
        "pooled/pass_at_1",
        "pooled/length_mean",
        "reward",
    ),
    arm_metrics=("difference/pooled/pass_at_1", "p_holm/pooled/pass_at_1", "pooled/pass_at_1"),
    baseline_run="f00d",
)


def _view(key: str, layout: Layout = LAYOUT) -> View:
    return next(view for view in views_of(layout) if view.key == key)


def test_a_tag_is_the_envelope_that_mlflow_reads() -> None:
    view = View(key="k", name="tokensweep: demo", mode="TABLE", state={"orderByAsc": False})
    envelope = json.loads(encode(view, created=1, updated=2))
    assert set(envelope) == {"name", "createdAt", "updatedAt", "state"}
    assert (envelope["name"], envelope["createdAt"], envelope["updatedAt"]) == ("tokensweep: demo", 1, 2)
    kind, _, packed = envelope["state"].partition(";")
    assert kind == "deflate"
    assert json.loads(zlib.decompress(base64.b64decode(packed))) == {"orderByAsc": False}


def test_what_was_encoded_is_decoded_and_anything_else_refused() -> None:
    view = _view("tokensweep")
    envelope, state = decode(encode(view, created=1, updated=2))
    assert (envelope["name"], state) == ("tokensweep: demo", view.state)
    assert decode('{"name": "n", "createdAt": 1, "state": "{\\"a\\": 1}"}')[1] == {"a": 1}
    for text in ("{", "[]", '{"name": "n"}', '{"state": "deflate;AAAA"}'):
        with pytest.raises(ValueError, match="a saved view must be an envelope"):
            decode(text)


def test_training_runs_are_filtered_sorted_and_grouped_by_arm() -> None:
    state = _view("tokensweep").state
    assert state["searchFilter"] == 'tags.kind = "train"'
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`pooled/pass_at_1`", False)
    assert state["groupBy"] == {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": "arm"}],
    }
    assert state["runsHiddenMode"] == "SHOW_ALL"
    bars = [card["metricKey"] for card in state["compareRunCharts"] if card["type"] == "BAR"]
    assert bars == ["pooled/pass_at_1", "final/aime24/pass_at_1", "final/aime25/pass_at_1"]


def test_arms_of_several_settings_are_told_apart() -> None:
    layout = Layout(sweep="demo", suites=("ops",), several_settings=True)
    state = _view("tokensweep", layout).state
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "group"}]
    assert state["selectedColumns"][:2] == ["tags.`setting`", "tags.`arm`"]


def test_single_runs_have_parallel_coordinates_and_differences_and_no_groups() -> None:
    state = _view("tokensweep-runs").state
    assert "groupBy" not in state  # MLflow compares no answers of grouped runs
    cards = {card["type"]: card for card in state["compareRunCharts"]}
    assert cards["PARALLEL"]["selectedParams"] == ["arm", "method.ratio.p"]
    assert cards["PARALLEL"]["selectedMetrics"] == ["pooled/pass_at_1", "pooled/length_mean"]
    assert cards["DIFFERENCE"]["compareGroups"] == ["Parameters"]
    assert cards["LINE"]["metricKey"] == "reward"


def test_summaries_are_compared_with_the_baseline() -> None:
    view = _view("tokensweep-arms")
    assert view.state["searchFilter"] == 'tags.kind = "arm"'
    assert view.state["selectedColumns"][-3:] == [
        "metrics.`pooled/pass_at_1`",
        "metrics.`difference/pooled/pass_at_1`",
        "metrics.`p_holm/pooled/pass_at_1`",
    ]
    difference = next(card for card in view.state["compareRunCharts"] if card["type"] == "DIFFERENCE")
    assert (difference["baselineColumnUuid"], difference["showChangeFromBaseline"]) == ("f00d", True)


def test_without_summary_runs_there_is_no_view_of_them() -> None:
    layout = Layout(sweep="demo", suites=("ops",))
    assert [view.key for view in views_of(layout)] == ["tokensweep", "tokensweep-runs"]


def test_every_card_is_in_a_section_and_the_sections_of_other_metrics_are_closed() -> None:
    for view in views_of(LAYOUT):
        sections = {section["uuid"]: section for section in view.state["compareRunSections"]}
        assert all(sections[card["metricSectionId"]]["display"] for card in view.state["compareRunCharts"])
    closed = [s["name"] for s in _view("tokensweep").state["compareRunSections"] if not s["display"]]
    assert closed == ["Model metrics", "final/aime24", "final/aime25", "pooled"]


def test_a_header_is_as_wide_as_its_name_in_every_view() -> None:
    for view in views_of(LAYOUT):
        widths = view.state["columnWidths"]
        assert set(view.state["selectedColumns"]) <= set(widths)
        assert set(widths) <= set(view.state["columnOrder"])  # MLflow takes widths of ordered columns only
        assert all(width >= 7 * len(name.split("`")[1]) for name, width in widths.items())


def test_a_view_of_a_large_sweep_fits_in_a_tag() -> None:
    metrics = tuple(f"final/suite{number}/pass_at_{k}" for number in range(30) for k in (1, 8, 64))
    suites = tuple(f"suite{number}" for number in range(30))
    layout = Layout(sweep="demo", suites=suites, metrics=metrics, arm_metrics=metrics)
    for view in views_of(layout):
        assert len(encode(view, created=0, updated=0)) < 20000  # MLflow's limit for a tag of an experiment


def test_the_address_of_a_view_has_no_password_and_a_database_has_that_of_a_server_to_start() -> None:
    view = View(key="k", name="n", mode="CHART", state={})
    page = "#/experiments/7/runs?viewStateShareKey=k&compareRunsMode=CHART&workflowType=machine_learning"
    assert view_url("https://me:word@host:8080/mlflow/", "7", view) == f"https://host:8080/mlflow/{page}"
    assert view_url("sqlite:////srv/mlflow.db", "7", view) == f"http://127.0.0.1:5000/{page}"


def test_axes_are_what_every_run_has_and_some_differ_in() -> None:
    runs = [
        {"seed": "0", "setting": "ops", "data": "ops", "method.p": "1", "optim.lr": "1e-5", "same": "1"},
        {"seed": "1", "setting": "ops", "data": "ops", "method.p": "2", "optim.lr": "1e-6", "same": "1"},
        {"seed": "0", "setting": "sums", "data": "sums", "method.p": "2", "optim.lr": "1e-6", "same": "1"},
    ]
    runs[0]["method.only_here"] = "3"
    assert axes_of(runs) == ("method.p", "optim.lr")
    assert axes_of([]) == ()
