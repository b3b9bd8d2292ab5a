"""A run folder is read as what it holds, or says in a sentence why it cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from tokensweep.ledger import Attempt
from tokensweep_analysis import loading
from tokensweep_analysis.health import health_of
from tokensweep_analysis.loading import load_runs
from tokensweep_analysis.majority import count_votes
from tokensweep_analysis.metrics import Kind, Metric, metrics_of
from tokensweep_analysis.runs import Run, Scored, load_run
from tokensweep_analysis.samples import read_samples, write_samples

MakeRow = Callable[..., dict[str, Any]]


def _folder(store: Path, run_id: str) -> Path:
    """Where the samples of a run lie."""
    return store / "runs" / run_id / "evals" / f"ops-e-{run_id}"


def _scored(store: Path, run_id: str) -> Scored:
    run = load_run(store / "runs" / run_id)
    assert run.error == ""
    (scored,) = run.scored.values()
    return scored


def _add(store: Path, run_id: str, rows: Sequence[dict[str, Any]], *, file: int = 1) -> None:
    write_samples(_folder(store, run_id) / f"samples-{file:03d}.parquet", rows)


@pytest.fixture
def answers(tmp_path: Path, make_run: Callable[..., None], make_row: MakeRow) -> Path:
    """A store with run ``a0``: 6 questions of 8 samples in two files, out of order, with all grades."""
    make_run(tmp_path, "a0", correct=[0], num_samples=8)
    rng = np.random.default_rng(0)
    said = ["7", "8", " 8.0", "1,234", "1234", None]
    rows = [
        make_row(
            run_id="a0",
            question_id=f"q{question}",
            sample_idx=sample,
            sampling_seed=8 * question + sample,
            grade=("correct", "wrong", "no_answer", "truncated", "error")[rng.integers(5)],
            extracted=said[rng.integers(len(said))],
            finish_reason=("stop", "length")[rng.integers(2)],
            n_output_tokens=int(rng.integers(100)),
        )
        for question in range(6)
        for sample in range(10)  # two more than the ledger says
    ]
    order = rng.permutation(len(rows))
    (_folder(tmp_path, "a0") / "samples-000.parquet").unlink()
    _add(tmp_path, "a0", [rows[i] for i in order[:40]], file=0)
    changed = [{**rows[i], "grade": "correct"} for i in order[:5]]  # graded again: the last file counts
    _add(tmp_path, "a0", [rows[i] for i in order[40:]] + changed)
    return tmp_path


def test_counts_are_those_of_the_rows_that_count(answers: Path) -> None:
    scored = _scored(answers, "a0")
    frame = read_samples([_folder(answers, "a0")], text=False)
    frame = frame[frame["sample_idx"] < 8]
    groups = frame.groupby("question_id")
    assert dict(zip(scored.questions, scored.votes, strict=True)) == count_votes(frame)
    correct = groups["grade"].agg(lambda grades: (grades == "correct").sum())
    assert scored.num_correct.tolist() == correct.tolist()
    assert scored.length_by_question == pytest.approx(groups["n_output_tokens"].mean().to_numpy())
    cut = groups["finish_reason"].agg(lambda ends: (ends == "length").mean())
    assert scored.truncated_by_question == pytest.approx(cut.to_numpy())
    assert scored.truncated_fraction == pytest.approx((frame["finish_reason"] == "length").mean())
    assert scored.no_answer_fraction == pytest.approx((frame["grade"] == "no_answer").mean())
    assert scored.error_fraction == pytest.approx((frame["grade"] == "error").mean())
    ended = frame[frame["finish_reason"] != "length"]
    assert scored.avg_completed == pytest.approx((ended["grade"] == "correct").mean())


def test_all_metrics_at_once_are_each_metric_of_each_question(answers: Path) -> None:
    scored = _scored(answers, "a0")
    metrics = metrics_of(range(1, 9), [0.25, 0.5])
    scores = scored.scores_at(metrics)
    assert scores.shape == (6, len(metrics))
    for place, metric in enumerate(metrics):
        assert scores[:, place] == pytest.approx([metric.of(votes) for votes in scored.votes], abs=1e-12)
        assert scored.scores(metric) == pytest.approx(scores[:, place], abs=0)


def test_a_metric_above_the_samples_is_refused(answers: Path) -> None:
    for kind in (Kind.pass_at, Kind.pass_hat, Kind.maj_at):
        with pytest.raises(ValueError, match="got k=9 and 8 samples"):
            _scored(answers, "a0").scores(Metric(kind, 9))


def test_a_missing_sample_is_named_with_its_question(store: Path) -> None:
    ledger = store / "runs" / "a0" / "attempts" / "000" / "events.jsonl"
    ledger.write_text(ledger.read_text().replace('"num_samples":4', '"num_samples":5'))
    run = load_run(store / "runs" / "a0")
    assert run.state == "unreadable"
    assert (
        "ops-e-a0 must hold 5 samples of every question, got 4 of q0: give tokensweep evaluate run=a0, which "
        "samples what is missing"
    ) in run.error


def test_a_question_with_fewer_samples_than_the_others_is_named(store: Path, make_row: MakeRow) -> None:
    _add(store, "a0", [make_row(run_id="a0", question_id="q9", sample_idx=i) for i in (0, 2)])
    assert "must hold 4 samples of every question, got 2 of q9" in load_run(store / "runs" / "a0").error


def test_an_evaluation_without_questions_is_no_score_of_zero(store: Path) -> None:
    (_folder(store, "a0") / "samples-000.parquet").unlink()
    assert "must hold 4 samples of every question, got none" in load_run(store / "runs" / "a0").error
    _add(store, "a0", [])
    assert "must hold 4 samples of every question, got none" in load_run(store / "runs" / "a0").error


def test_samples_of_another_run_in_the_folder_are_not_mixed_in(store: Path, make_row: MakeRow) -> None:
    _add(store, "a0", [make_row(run_id="b0", question_id="q0", sample_idx=0)])
    assert "must hold samples of one run_id, got ['a0', 'b0']" in load_run(store / "runs" / "a0").error


def test_an_unknown_grade_is_no_wrong_answer(
    store: Path, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokensweep_analysis.samples.GRADES", frozenset({"right"}))
    _add(store, "a0", [make_row(run_id="a0", grade="right")])
    assert "grade must be one of" in load_run(store / "runs" / "a0").error
    assert "got ['right']" in load_run(store / "runs" / "a0").error


def test_no_extracted_answers_at_all_are_silent_votes(tmp_path: Path, make_run: Callable[..., None]) -> None:
    make_run(tmp_path, "a0", correct=[1, 0], columns={"extracted": None})
    assert [votes.num_silent for votes in _scored(tmp_path, "a0").votes] == [3, 4]


def test_samples_with_one_seed_are_called_the_same_sample(
    tmp_path: Path, make_run: Callable[..., None], make_row: MakeRow
) -> None:
    make_run(tmp_path, "a0", correct=[2, 2])
    assert (_scored(tmp_path, "a0").num_effective, _scored(tmp_path, "a0").remark) == (4, "")
    copies = [make_row(run_id="a0", question_id="q1", sample_idx=i, sampling_seed=5) for i in (1, 2, 3)]
    _add(tmp_path, "a0", copies)
    scored = _scored(tmp_path, "a0")
    assert scored.num_effective == 2  # seed 0 once, seed 5 three times
    assert scored.remark.startswith(
        "samples of 1 of 2 questions share a sampling seed, down to 2 different ones of 4"
    )


def test_another_prompt_under_the_same_id_is_another_condition(
    tmp_path: Path, make_run: Callable[..., None], make_row: MakeRow
) -> None:
    for run_id in ("a0", "a1"):
        make_run(tmp_path, run_id, correct=[2, 2])
    before = _scored(tmp_path, "a0").conditions
    assert _scored(tmp_path, "a1").conditions == before
    asked = [make_row(run_id="a1", question_id="q1", sample_idx=i, prompt_hash="other") for i in range(4)]
    _add(tmp_path, "a1", asked)
    after = _scored(tmp_path, "a1").conditions
    assert {name for name in after if after[name] != before[name]} == {"prompts"}


def test_only_graders_of_rows_that_count_are_named(store: Path, make_row: MakeRow) -> None:
    again = [
        make_row(run_id="a0", question_id=f"q{q}", sample_idx=i, grader="exact 2", sampling_seed=i)
        for q in range(3)
        for i in range(4)
    ]
    _add(store, "a0", again[:6])
    assert _scored(store, "a0").conditions["grader"] == "exact 1+exact 2"
    _add(store, "a0", again, file=2)
    assert _scored(store, "a0").conditions["grader"] == "exact 2"


@pytest.mark.parametrize("content", ["{}", '{"evals": [{"suite": "ops"}]}', '{"evals": 3}'])
def test_a_plan_without_what_a_plan_holds_is_damage(store: Path, content: str) -> None:
    (store / "runs" / "a0" / "plan.json").write_text(content)
    run = load_run(store / "runs" / "a0")
    assert run.state == "unreadable"
    assert "a0: its plan or its ledger must be as tokensweep writes them" in run.error


def _same(left: Run, right: Run) -> bool:
    names = ("state", "error", "code", "costs", "health")
    return all(getattr(left, name) == getattr(right, name) for name in names) and all(
        left.scored[name].metrics() == pytest.approx(right.scored[name].metrics()) for name in left.scored
    )


@pytest.mark.parametrize("helpers", [0, 1])
def test_a_damaged_run_does_not_hide_the_others(
    store: Path, helpers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "WORTH_HELP", 1)
    monkeypatch.setattr(loading, "_MOST_PROCESSES", 1 + helpers)
    monkeypatch.setattr(loading, "_CHUNK", 1)
    torn = _folder(store, "a1") / "samples-000.parquet"
    torn.write_bytes(torn.read_bytes()[:-100])
    (store / "runs" / "t0" / "plan.json").write_text("{")
    folders = [*sorted((store / "runs").iterdir()), store / "runs" / "absent"]
    heard: list[tuple[int, int]] = []
    runs = load_runs([*folders, folders[0]], progress=lambda done, total: heard.append((done, total)))
    assert list(runs) == ["a0", "a1", "t0", "t1", "t2", "t3", "absent"]
    assert [run.state for run in runs.values()] == [
        "finished",
        "unreadable",
        "unreadable",
        "finished",
        "failed",
        "planned",
        "planned",
    ]
    assert "samples-000.parquet cannot be read" in runs["a1"].error
    assert runs["a1"].error.endswith(
        "delete it, then give tokensweep evaluate run=a1, which samples what is missing"
    )
    assert "plan.json is damaged" in runs["t0"].error
    assert heard[-1] == (7, 7)
    assert all(_same(runs[folder.name], load_run(folder)) for folder in folders)


def test_what_a_dead_process_had_taken_is_loaded_all_the_same(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "WORTH_HELP", 1)
    monkeypatch.setattr(loading, "_MOST_PROCESSES", 2)
    monkeypatch.setattr(loading, "_CHUNK", 1)
    monkeypatch.setattr(loading, "ProcessPoolExecutor", _Broken)
    assert len(load_runs((store / "runs").iterdir())) == 6


class _Broken:
    """A pool whose processes have died with all that they were asked for."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, *_: object) -> Future[list[Run]]:
        future: Future[list[Run]] = Future()
        future.set_exception(BrokenProcessPool("gone"))
        return future


def _rows(**metrics: Sequence[float]) -> list[dict[str, Any]]:
    names = [name.replace("__", "/") for name in metrics]
    return [
        {"step": step, "metrics": dict(zip(names, values, strict=True))}
        for step, values in enumerate(zip(*metrics.values(), strict=True), start=1)
    ]


def test_a_training_that_ends_as_it_began_is_healthy() -> None:
    assert health_of(_rows(entropy__mean=[0.5] * 40, sampled__accuracy=[0.3] * 40)) == ""
    assert health_of([]) == ""


def test_a_run_without_any_gradient_is_the_model_it_started_from() -> None:
    told = "nothing was learned: no gradient in any of 3 steps, so it is the model it started from"
    assert health_of(_rows(grad_norm=[0.0] * 3)) == told
    assert health_of(_rows(grad_norm=[0.0, 0.0, 1e-9])) == ""


def test_a_metric_that_is_not_finite_is_named_with_its_first_step() -> None:
    rows = _rows(grad_norm=[1.0, float("nan"), 1.0, float("inf")], reward=[0.5] * 4)
    assert health_of(rows) == "not finite in 2 of 4 steps, first in step 2: grad_norm"


def test_entropy_that_is_nearly_gone_has_collapsed() -> None:
    # The last tenth of 40 steps are 4: 0.02 nats is 4 % of 0.5, 0.03 is 6 %.
    assert health_of(_rows(entropy__mean=[0.5] * 36 + [0.02] * 4)).startswith(
        "entropy collapsed: 0.02 nats in the last tenth of the steps, 0.5 in the first"
    )
    assert health_of(_rows(entropy__mean=[0.5] * 36 + [0.03] * 4)) == ""


def test_accuracy_below_half_of_the_start_is_lost_unless_it_was_next_to_nothing() -> None:
    assert health_of(_rows(sampled__accuracy=[0.4] * 36 + [0.1] * 4)).startswith("accuracy was lost: 10.0%")
    assert health_of(_rows(sampled__accuracy=[0.04] * 36 + [0.01] * 4)) == ""


def test_a_run_says_what_is_wrong_with_its_training(tmp_path: Path, make_run: Callable[..., None]) -> None:
    make_run(tmp_path, "a0", correct=[1])
    folder = tmp_path / "runs" / "a0"
    assert load_run(folder).health == ""
    metrics = folder / "attempts" / "000" / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows[-1]["metrics"]["grad_norm"] = float("nan")
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_run(folder).health == "not finite in 1 of 4 steps, first in step 4: grad_norm"


def test_a_run_that_nobody_started_has_no_costs_and_no_fault(
    tmp_path: Path, make_run: Callable[..., None]
) -> None:
    make_run(tmp_path, "a0", correct=[1])
    with Attempt.open(tmp_path / "runs" / "a1"):
        pass
    run = load_run(tmp_path / "runs" / "a1")
    assert (run.scored, run.health) == ({}, "")
