"""A report says what its numbers are about, in the terminal and on disk."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from tests.analysis.page.outline import outline

from tokensweep.files import write_json
from tokensweep.identity import read_json
from tokensweep.ledger import Attempt
from tokensweep_analysis.claims import Claim, ClaimKind, Judgement, Verdict
from tokensweep_analysis.contrasts import contrasts_of
from tokensweep_analysis.frames import ranking_frame
from tokensweep_analysis.intervals import Estimand, Estimate
from tokensweep_analysis.metrics import AVERAGE, Kind, Metric, metrics_of
from tokensweep_analysis.page import to_html
from tokensweep_analysis.report import render, to_compact_markdown, to_markdown, write_report
from tokensweep_analysis.tables import Comparison, Row, compare

Make = Callable[..., None]


def _printed(store: Path, *, width: int = 200) -> str:
    console = Console(width=width, file=StringIO())
    for part in render(compare(store, "demo")):
        console.print(part)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_report_says_estimand_scale_sizes_seeds_code_and_note(store: Path) -> None:
    text = to_markdown(compare(store, "demo"))
    for fact in (
        "estimand E4: the method, questions like these",
        "scale tiny",
        "3 questions",
        "4 samples of each",
        "seeds 0 1",
        "code abc123",
        "not adjusted for the number of comparisons",
        "Scale tiny tests the machinery and is no evidence about language models.",
    ):
        assert fact in text


def test_a_report_says_that_the_model_may_have_seen_the_problems(store: Path) -> None:
    assert "Contamination" not in to_markdown(compare(store, "demo"))
    for path in (store / "runs").glob("*/plan.json"):
        plan = read_json(path)
        write_json(path, {**plan, "evals": [{**each, "caution": "ops is older"} for each in plan["evals"]]})
    assert to_markdown(compare(store, "demo")).count("Contamination: ops is older.") == 1


def test_numbers_stand_in_points_with_their_interval(store: Path) -> None:
    # (4 + 2 + 0 + 4 + 1 + 1) correct of 24 samples is 50 %; arm top has 15 of 24, which is 62.5 %.
    text = to_markdown(compare(store, "demo"))
    assert "| all | 2/2 | 50.0 [0.0, 100.0] |" in text
    assert "+12.5 [" in text


def test_reliability_stands_in_a_table_of_its_own_and_is_explained(store: Path) -> None:
    text = to_markdown(compare(store, "demo"))
    assert "| arm | maj@4 | pass^4 | cover@0.5 |" in text
    for fact in (
        "maj@4 is the chance that the most frequent answer of 4 samples is right",
        "pass^4 is the chance that all of 4 samples are right.",
        "cover@tau is the share of questions with at least the share tau of their samples right",
        # Ten digits: 1 - 0.9^4 = 0.3439.
        "Blind guessing among 10 answers would reach avg@n 10.0 and pass@4 34.4.",
    ):
        assert text.count(fact) == 1
    assert "pass^4" in _printed(store)


def test_only_the_smallest_and_the_largest_k_are_shown(store: Path) -> None:
    comparison = compare(store, "demo", ks=[1, 2, 3, 4])
    text = to_markdown(comparison)
    header = "\n".join(line for line in text.splitlines() if line.startswith("| arm"))
    names = ["avg@n", *(f"{kind}{k}" for k in (1, 2, 3, 4) for kind in ("pass@", "maj@", "pass^"))]
    assert [name for name in names if name in header] == ["avg@n", "pass@4", "maj@4", "pass^4"]
    assert "maj_at_2" in set(ranking_frame(comparison)["metric"])


def test_a_readme_has_the_guess_floor_but_no_reliability(store: Path) -> None:
    text = to_compact_markdown(compare(store, "demo"))
    assert not any(word in text for word in ("maj@", "pass^", "cover@"))
    assert "Blind guessing among 10 answers" in text


def test_failed_and_missing_runs_stand_below_the_table(store: Path) -> None:
    text = to_markdown(compare(store, "demo"))
    assert "| ops | top | 2 | t2 | failed | loss is NaN at step 3 \\| batch [7] |" in text
    assert "| ops | top | 3 | t3 | missing |  |" in text


def test_the_terminal_shows_the_same_numbers_and_takes_brackets_literally(store: Path) -> None:
    text = _printed(store)
    assert "50.0 [0.0, 100.0]" in text
    assert "loss is NaN at step 3 | batch [7]" in text


def test_failed_runs_are_counted_beside_the_result(store: Path) -> None:
    assert "| top | 2/4, 1 failed | 62.5 [" in to_markdown(compare(store, "demo"))
    assert re.search(r"top +2/4, 1 failed +62\.5 \[", _printed(store))


def test_what_holds_for_every_setting_is_said_once(store: Path, make_run: Make) -> None:
    make_run(store, "b0", correct=[1, 2], suite="order")
    sweep = read_json(store / "sweeps" / "demo" / "sweep.json")
    other = {"setting": "order", "arm": "all", "seed": 0, "run_id": "b0", "evals": {"order": "e-b0"}}
    write_json(
        store / "sweeps" / "demo" / "sweep.json", {**sweep, "baseline": None, "runs": [*sweep["runs"], other]}
    )
    for report in (to_markdown(compare(store, "demo")), _printed(store)):
        text = " ".join(report.split())  # wherever its lines are broken
        assert text.count("Tokens and seconds are per run") == 1
        assert text.count("no evidence about language models") == 1
        assert text.count("seeds 0 1, 3 questions") == text.count("seeds 0, 2 questions") == 1


def test_only_differences_whose_interval_excludes_zero_are_bold() -> None:
    console = Console(width=80, file=StringIO(), force_terminal=True, no_color=True)
    for part in render(_wide_comparison()):
        console.print(part)
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert "-12.1" in text
    bold = re.findall(r"\x1b\[1m *([^\x1b]*)", text)
    assert [part for part in bold if "." in part and "@" not in part] == ["-64.4 [-80.4, -48.5]"]


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_every_number_stands_unbroken_in_the_terminal(width: int) -> None:
    comparison = _wide_comparison()
    console = Console(width=width, file=StringIO(), record=True)
    for part in render(comparison):
        console.print(part)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for row in comparison.rows:
        values = [(each, "{:.1f}") for each in row.results.values()]
        values += [(each, "{:+.1f}") for each in row.differences.values()]
        numbers = [form.format(100 * each.value) for each, form in values]
        numbers += [
            f"[{form.format(100 * each.low)}, {form.format(100 * each.high)}]" for each, form in values
        ]
        numbers += [f"{row.length_mean:.1f}", f"{row.generated_tokens:,.0f}", f"{row.seconds:.0f}"]
        for number in (*numbers, row.arm, f"{len(row.seeds)}/{row.num_planned}", f"{row.num_failed} failed"):
            assert re.search(rf"(?<![\w.]){re.escape(number)}(?![\w.])", text), number


def _wide_comparison() -> Comparison:
    """A comparison whose numbers are as wide as they get: two more columns than 80 characters can hold."""
    asked = metrics_of([1, 32], [0.5, 0.9])
    rows = [
        Row(
            setting="ops",
            arm=arm,
            benchmark="ops",
            seeds=(0, 1, 2),
            num_planned=12,
            num_failed=9,
            num_questions=128,
            num_samples=32,
            answer_space=1000,
            asked=tuple(asked),
            results={metric: _estimate(value + place / 1000, 0.0, 1.0) for place, metric in enumerate(asked)},
            differences=_differences(*difference) if difference else {},
            kept_fraction=0.2,
            entropy_kept_fraction=1.0,
            truncated_fraction=0.123,
            no_answer_fraction=0.456,
            length_mean=30123.4 + value,
            generated_tokens=123456789.0 + 100 * value,
            seconds=1234567.0 + 100 * value,
        )
        for arm, value, difference in (
            ("all", 0.912, ()),
            ("bottom80", 0.269, (-0.6442, -0.8041, -0.4846)),
            ("as_released", 0.84, (-0.072, -0.2243, 0.0801)),
        )
    ]
    return Comparison(
        name="wide",
        scale="tiny",
        paper="",
        question="",
        note="",
        baseline="all",
        code=("abc123",),
        confidence=0.95,
        rows=tuple(rows),
        troubles=(),
        contrasts=tuple(
            each
            for row in rows
            for each in contrasts_of(
                setting="ops", benchmark="ops", arm=row.arm, baseline="all", estimates=row.differences
            )
        ),
    )


def _differences(value: float, low: float, high: float) -> dict[Metric, Estimate]:
    return {
        Metric(Kind.pass_at, 1): _estimate(value, low, high),
        Metric(Kind.pass_at, 32): _estimate(-0.121, -1.0, 1.0),
    }


def _estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(
        value=value,
        low=low,
        high=high,
        standard_error=0.1,
        df=2.0,
        estimand=Estimand.E4,
        num_runs=3,
        num_questions=128,
        confidence=0.95,
    )


def _claims_table(*claims: Claim, grade: str = "", width: int = 80) -> str:
    """What the terminal shows of judgements as wide as they get, from the head of their table to its end."""
    judgements = tuple(
        Judgement(
            claim=claim,
            setting="",
            verdict=Verdict.reproduced if grade else Verdict.inconclusive,
            grade=grade,
            estimate=_estimate(-0.6442, -0.8041, -0.4846),
            p_holm=0.0002,
            detectable=1.31,
        )
        for claim in claims
    )
    console = Console(width=width, file=StringIO())
    for part in render(replace(_wide_comparison(), judgements=judgements)):
        console.print(part)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().partition("Claims\n")[2].partition(f"{judgements[0].claim.id}:")[0]


def _claim(name: str, **changes: Any) -> Claim:
    sides = {"left": "all", "right": "bottom80", "benchmark": "ops", "metric": AVERAGE}
    return Claim(id=name, kind=ClaimKind.superiority, **{**sides, **changes})


@pytest.mark.parametrize(
    ("name", "claimed"),
    # The longest names of the shipped sweeps with a claimed difference and without one.
    [("kl_cov_beats_clip_higher", 0.018), ("tiny_entropy_adv_beats_grpo", None)],
)
def test_the_claims_of_shipped_sweeps_are_one_table_of_80_columns(name: str, claimed: float | None) -> None:
    text = _claims_table(_claim(name, claimed=claimed), grade="size consistent" if claimed else "")
    assert text.count("claim ") == 1
    assert max(map(len, text.splitlines())) <= 80
    assert name in text
    assert ("+1.8" in text) is ("claimed" in text) is bool(claimed)


def test_a_difference_of_the_claims_table_has_its_level_and_detects_no_more_than_100() -> None:
    text = _claims_table(_claim("wins"), width=200)
    assert "-64.4 [-80.4, -48.5] at 95 %" in text
    assert ">100" in text
    assert "131" not in text


def test_a_reason_keeps_the_names_that_are_in_it() -> None:
    reason = "model Qwen3-8B instead of Llama"
    judged = Judgement(claim=_claim("wins"), setting="", verdict=Verdict.not_comparable, reason=reason)
    assert f"Not comparable: {reason}." in to_markdown(replace(_wide_comparison(), judgements=(judged,)))


def test_a_report_says_at_which_level_each_detects_is() -> None:
    judged = Judgement(claim=_claim("wins"), setting="", verdict=Verdict.inconclusive)
    text = to_markdown(replace(_wide_comparison(), judgements=(judged,)))
    assert text.count("at the 5 % level before any adjustment") == 1
    assert text.count("at the level that Holm left this claim") == 1
    assert "avg@n is the share of right samples, which equals pass@1." in text


def test_scores_without_spread_are_shown_without_an_interval(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    make_run(tmp_path, "a0", correct=[4, 4])
    make_sweep(tmp_path, [("all", 0, "a0")])
    text = to_markdown(compare(tmp_path, "demo"))
    assert "100.0 [none]" in text
    assert text.count("Where scores have no spread between runs or questions there is no interval.") == 1
    assert text.count("one training run") == 1


def _everywhere(store: Path) -> tuple[str, str, str]:
    """The report in the terminal, as Markdown and as a page, each on one line."""
    comparison = compare(store, "demo")
    texts = (_printed(store), to_markdown(comparison), outline(to_html(comparison)).text)
    terminal, markdown, page = (" ".join(text.split()) for text in texts)
    return terminal, markdown, page


def test_a_sweep_of_which_no_run_has_finished_says_so_and_nothing_of_numbers(
    tmp_path: Path, make_sweep: Make
) -> None:
    make_sweep(tmp_path, [("all", 0, "a0"), ("top", 0, "t0"), ("top", 1, "t1")])
    with Attempt.open(tmp_path / "runs" / "t1") as attempt:
        attempt.failed(RuntimeError("no memory"))
    for text in _everywhere(tmp_path):
        assert "No run has finished yet: 3 planned, 1 failed." in text
        for piece in ("none yet", "0 questions", "unknown", "No contrasts", "Points out of 100", "in bold"):
            assert piece not in text
    assert "| all | 0/1 |" in to_markdown(compare(tmp_path, "demo"))


@pytest.mark.parametrize(
    ("finished", "planned", "baseline", "reason"),
    [
        (["a0"], ["a0"], "all", "all is the only arm"),
        (["t0", "r0"], ["a0", "t0", "r0"], "all", "baseline all has no finished runs"),
        (["a0"], ["a0", "t0"], "all", "only baseline all has finished runs"),
        (["t0", "r0"], ["t0", "r0"], "all", "baseline all is not planned here"),
        (["a0", "t0"], ["a0", "t0"], None, "the sweep names no baseline"),
        (["a0", "x0"], ["a0", "x0"], "all", "no arm can be compared with baseline all"),
    ],
)
def test_a_report_without_contrasts_says_why(
    tmp_path: Path,
    make_run: Make,
    make_sweep: Make,
    finished: list[str],
    planned: list[str],
    baseline: str | None,
    reason: str,
) -> None:
    arms = {"a0": "all", "t0": "top", "r0": "rest", "x0": "more questions"}
    for run in finished:
        make_run(tmp_path, run, correct=[1, 2, 3, 4] if run == "x0" else [1, 2, 3])
    make_sweep(tmp_path, [(arms[run], 0, run) for run in planned], baseline=baseline)
    for text in _everywhere(tmp_path):
        assert f"No contrasts: {reason}." in text
        assert "bold" not in text


def test_a_report_with_contrasts_does_not_say_that_there_are_none(store: Path) -> None:
    for text in _everywhere(store):
        assert "No contrasts" not in text
        assert "No run has finished" not in text


def test_a_setting_without_finished_runs_keeps_what_all_others_share_in_one_place(
    store: Path,
) -> None:
    sweep = read_json(store / "sweeps" / "demo" / "sweep.json")
    other = {"setting": "order", "arm": "all", "seed": 0, "run_id": "b0", "evals": {"order": "e-b0"}}
    write_json(store / "sweeps" / "demo" / "sweep.json", {**sweep, "runs": [*sweep["runs"], other]})
    terminal, markdown, page = _everywhere(store)
    for text in (terminal, markdown):
        assert text.count("No run has finished yet: 1 planned.") == 1
        assert text.index("No run has finished yet") < text.index("Points out of 100")
    assert "order: No run has finished yet: 1 planned." in page


def test_one_question_and_one_sample_are_not_many(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    make_run(tmp_path, "a0", correct=[1], num_samples=1, k=[1])
    make_sweep(tmp_path, [("all", 0, "a0")])
    assert "seeds 0, 1 question, 1 sample of each," in to_markdown(compare(tmp_path, "demo"))


def test_the_report_is_written_as_markdown_and_csv(store: Path) -> None:
    files = write_report(compare(store, "demo"), store / "sweeps" / "demo" / "report")
    assert files.markdown.read_text().startswith("# demo\n")
    ranking, contrasts, claims = (pd.read_csv(path) for path in files.tables)
    assert set(ranking["arm"]) == {"all", "top"}
    assert set(contrasts["arm"]) == {"top"}
    assert len(claims) == 0
    names = ["claims.csv", "contrasts.csv", "ranking.csv", "report.md"]
    assert sorted(path.name for path in files.markdown.parent.iterdir()) == names


def test_a_report_that_cannot_be_written_names_the_file(store: Path) -> None:
    (store / "occupied").write_text("")
    with pytest.raises(OSError, match=r"report\.md could not be written"):
        write_report(compare(store, "demo"), store / "occupied")
