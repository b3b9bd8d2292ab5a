"""Data that cannot carry a comparison get a sentence, in every form of the report, and never a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokensweep.files import write_json
from tokensweep.identity import read_json
from tokensweep_analysis.frames import claim_frame, contrast_frame, ranking_frame
from tokensweep_analysis.metrics import Kind, Metric
from tokensweep_analysis.page.document import to_html
from tokensweep_analysis.report import to_markdown
from tokensweep_analysis.samples import read_samples, write_samples
from tokensweep_analysis.tables import Comparison, compare

Make = Callable[..., None]
AVERAGE = Metric(Kind.pass_at, 1)


def _texts(comparison: Comparison) -> tuple[str, str]:
    """The report in two forms, after every other form was made without complaint."""
    for frame in (ranking_frame(comparison), contrast_frame(comparison), claim_frame(comparison)):
        frame.to_csv()
    return to_markdown(comparison), to_html(comparison)


def _sweep(store: Path, make_sweep: Make, *arms: str, seeds: int = 1) -> Comparison:
    entries = [(arm, seed, f"{arm}{seed}") for arm in arms for seed in range(seeds)]
    claim = {"id": "wins", "kind": "superiority", "contrast": "top - all", "metric": "ops/avg"}
    make_sweep(store, entries, claims=[claim] if "top" in arms else [])
    return compare(store, "demo")


def test_a_question_that_one_arm_lacks_forbids_the_difference(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    make_run(tmp_path, "all0", correct=[1, 2, 3])
    make_run(tmp_path, "top0", correct=[4, 4])
    comparison = _sweep(tmp_path, make_sweep, "all", "top")
    assert comparison.contrasts == ()
    for text in _texts(comparison):
        assert "evaluations of ops differ in questions (2 and 3 of them)" in text


def test_the_same_number_of_other_questions_forbids_it_too(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    make_run(tmp_path, "all0", correct=[1, 2])
    make_run(tmp_path, "top0", correct=[4, 4], columns={"prompt_hash": "another wording"})
    comparison = _sweep(tmp_path, make_sweep, "all", "top")
    assert comparison.contrasts == ()
    assert all("evaluations of ops differ in prompts" in text for text in _texts(comparison))


def test_unequal_numbers_of_samples_are_compared_where_both_have_enough(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    make_run(tmp_path, "all0", correct=[1, 2, 3], num_samples=8, k=(1, 8))
    make_run(tmp_path, "top0", correct=[4, 2, 3], num_samples=4, k=(1, 4))
    comparison = _sweep(tmp_path, make_sweep, "all", "top")
    # Shares of arm all are 1/8, 2/8, 3/8 and of arm top 1, 2/4, 3/4: 2.25/3 - 0.75/3.
    by_metric = {each.metric: each.estimate.value for each in comparison.contrasts}
    assert by_metric[AVERAGE] == pytest.approx(0.5)
    assert Metric(Kind.pass_at, 8) not in by_metric
    _texts(comparison)


@pytest.mark.parametrize(("all_correct", "top_correct"), [([0] * 25, [4] * 25), ([4] * 25, [4] * 25)])
def test_scores_without_any_spread_have_no_interval_and_no_verdict(
    tmp_path: Path, make_run: Make, make_sweep: Make, all_correct: list[int], top_correct: list[int]
) -> None:
    for seed in range(3):
        make_run(tmp_path, f"all{seed}", correct=all_correct, seed=seed)
        make_run(tmp_path, f"top{seed}", correct=top_correct, seed=seed)
    comparison = _sweep(tmp_path, make_sweep, "all", "top", seeds=3)
    assert all(math.isnan(each.p_value) and math.isnan(each.estimate.low) for each in comparison.contrasts)
    (judged,) = comparison.judgements
    assert (judged.verdict, judged.reason) == (
        "inconclusive",
        "the scores have no spread, so there is no interval",
    )
    markdown, _ = _texts(comparison)
    assert "there is no interval" in markdown


def test_one_question_is_about_these_questions_only(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    for seed in range(3):
        make_run(tmp_path, f"all{seed}", correct=[seed], seed=seed)
        make_run(tmp_path, f"top{seed}", correct=[4 - seed], seed=seed)
    comparison = _sweep(tmp_path, make_sweep, "all", "top", seeds=3)
    assert {each.estimate.estimand.name for each in comparison.contrasts} == {"E3"}
    assert comparison.judgements[0].reason == "1 question, a verdict needs 20"
    assert all("E3" in text for text in _texts(comparison))


def test_samples_that_were_drawn_twice_are_told(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    make_run(tmp_path, "all0", correct=[1, 2, 3])
    path = next(tmp_path.glob("runs/all0/evals/*/samples-000.parquet"))
    rows = read_samples([path.parent]).assign(sampling_seed=7)
    write_samples(
        path, [{str(k): None if v != v else v for k, v in row.items()} for row in rows.to_dict("records")]
    )
    comparison = _sweep(tmp_path, make_sweep, "all")
    assert all("share a sampling seed" in text for text in _texts(comparison))


def test_a_sample_with_two_grades_in_one_file_is_refused_and_named(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    for arm in ("all", "top"):
        make_run(tmp_path, f"{arm}0", correct=[1, 2, 3])
    path = next(tmp_path.glob("runs/top0/evals/*/samples-000.parquet"))
    rows = pq.read_table(path)
    other = rows.slice(0, 1).to_pylist()[0] | {"grade": "wrong"}
    pq.write_table(pa.concat_tables([rows, pa.Table.from_pylist([other], schema=rows.schema)]), path)
    comparison = _sweep(tmp_path, make_sweep, "all", "top")
    (trouble,) = comparison.troubles
    assert (trouble.run_id, trouble.state) == ("top0", "unreadable")
    assert "must hold every sample once, got sample 0 of q0 twice" in trouble.error
    with pytest.raises(ValueError, match="got sample 0 of q0 twice"):
        read_samples([path.parent])


def test_a_question_that_every_run_lacks_is_missed(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    for arm in ("all", "top"):
        make_run(tmp_path, f"{arm}0", correct=[1, 2, 3])
        plan = tmp_path / "runs" / f"{arm}0" / "plan.json"
        content = read_json(plan)
        content["evals"][0]["num_questions"] = 4
        write_json(plan, content)
    comparison = _sweep(tmp_path, make_sweep, "all", "top")
    assert all("must hold samples of 4 questions, got 3" in each.error for each in comparison.troubles)
    assert len(comparison.troubles) == 2


@pytest.mark.parametrize("kind", ["model", "data"])
def test_arms_of_different_models_or_data_are_compared_with_a_warning_and_no_verdict(
    tmp_path: Path, make_run: Make, make_sweep: Make, kind: str
) -> None:
    for arm in ("all", "top"):
        make_run(tmp_path, f"{arm}0", correct=[1, 2, 3])
    _sweep(tmp_path, make_sweep, "all", "top")
    path = tmp_path / "sweeps" / "demo" / "sweep.json"
    content = read_json(path)
    for entry in content["runs"]:
        entry[kind] = {"all": "small", "top": "large"}[entry["arm"]]
    write_json(path, content)
    comparison = compare(tmp_path, "demo")
    different = f"arms are trained with different {kind} large against small"
    assert comparison.judgements[0].verdict == "not comparable"
    assert comparison.judgements[0].reason == different
    assert comparison.contrasts
    assert all(f"not the method alone: {different}" in text for text in _texts(comparison))


def test_one_arm_alone_is_a_ranking_without_contrasts(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    make_run(tmp_path, "all0", correct=[1, 2, 3])
    comparison = _sweep(tmp_path, make_sweep, "all")
    assert len(comparison.rows) == 1
    assert not comparison.contrasts
    assert not comparison.judgements
    assert all("one training run" in text for text in _texts(comparison))


def test_no_finished_run_is_a_report_that_says_so(tmp_path: Path, make_sweep: Make) -> None:
    comparison = _sweep(tmp_path, make_sweep, "all", "top")
    assert comparison.judgements[0].reason == "no run of top has finished"
    markdown, page = _texts(comparison)
    assert "| all | 0/1 |" in markdown
    assert "missing" in page
