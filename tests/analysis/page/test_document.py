"""A page says everything, escapes everything, loads nothing, and stays small."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.analysis.page.made import (
    MEAN,
    a_comparison,
    a_contrast,
    a_judgement,
    a_row,
    a_trouble,
    an_estimate,
    made_curves,
    simulated,
)
from tests.analysis.page.outline import outline

from tokensweep_analysis.claims import Verdict
from tokensweep_analysis.intervals import Estimand
from tokensweep_analysis.page import to_html, write_page
from tokensweep_analysis.page.document import ONE_RUN
from tokensweep_analysis.page.figures import Dot
from tokensweep_analysis.page.selection import drawn_arms
from tokensweep_analysis.tables import Comparison, compare

NASTY = "<script>alert('x')</script>\"&"


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """Five arms on two benchmarks."""
    return simulated(num_arms=5, benchmarks=["aime24", "aime25"], num_questions=6, num_samples=8)


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> str:
    """Its page."""
    return to_html(comparison, made_curves(drawn_arms(comparison), num_points=8))


def test_the_parts_stand_in_the_order_in_which_they_are_read(page: str) -> None:
    assert [heading.text for heading in outline(page).all("h2")] == [
        "How to read this",
        "Claims",
        "Contrasts",
        "Ranking",
        "pass@k",
        "pass@k against the baseline",
        "Differences to the baseline",
        "Questions",
        "Training",
        "Length against accuracy",
        "Not in the tables",
        "Provenance",
    ]


def test_a_verdict_is_a_word_and_a_symbol(page: str) -> None:
    badges = [e.text for e in outline(page).all("span") if "verdict" in e.attributes.get("class", "")]
    assert badges == ["✓ reproduced", "✗ refuted", "? inconclusive", "≠ not comparable", "○ not run"]


def test_a_claim_shows_its_rule_its_reason_and_its_figures(page: str) -> None:
    rows = [row.text for row in outline(page).find("claims").all("tr")]
    place = next(place for place, row in enumerate(rows) if "is_refuted" in row)
    row = "".join(rows[place : place + 2])  # the second one has the whole width
    for part in (
        "top20 is above all in pooled avg@n",
        "Table 2",
        "+2.0[−1.0, +5.0]",
        "at 95 %4.3+7.7",
        "< 0.001",
        "0.012",
        "0.912",
        "0.431δ = 1.9",
        "the interval reaches from -1.0 to +5.0Lower end of the 95 % interval above 0.",
    ):
        assert part in row


def test_a_contrast_shows_what_was_found_and_what_could_have_been() -> None:
    page = to_html(a_comparison([a_row("all"), a_row("top20")], contrasts=(a_contrast("top20"),)))
    cells = [
        cell.text
        for cell in list(outline(page).find("contrasts").all("tr"))[1].content
        if not isinstance(cell, str)
    ]
    assert cells == [
        "top20 − all", "aime25", "avg@n", "+2.0", "[−1.0, +5.0]", "8.4", "0.178", "0.357", "4.3", "E4",
    ]  # fmt: skip


def test_a_difference_is_strong_only_if_its_interval_excludes_0() -> None:
    strong = a_contrast("top20", estimate=an_estimate(0.05, 0.03))
    page = to_html(a_comparison([a_row("all"), a_row("top20")], contrasts=(a_contrast("top20"), strong)))
    assert [each.text for each in outline(page).find("contrasts").all("strong")] == ["+5.0"]


def test_contrasts_of_other_metrics_are_counted_when_left_out(comparison: Comparison, page: str) -> None:
    # 4 arms, 3 benchmarks; pass@1, 2, 4, 8, maj and pass^ at 2, 4, 8, 2 cover: 12 metrics, 2 of them here.
    assert len(comparison.contrasts) == 4 * 3 * 12
    assert len(list(outline(page).find("contrasts").all("tr"))) == 1 + 4 * 3 * 2
    assert "120 contrasts of other metrics and arms are in contrasts.csv only." in page


def test_the_ranking_begins_with_the_best_and_marks_the_baseline() -> None:
    rows = [a_row("all", results={MEAN: an_estimate(0.4)}), a_row("top20", results={MEAN: an_estimate(0.5)})]
    ranking = outline(to_html(a_comparison(rows))).find("ranking")
    assert [e.text for e in ranking.all("th") if e.attributes.get("scope") == "row"] == [
        "top20",
        "allbaseline",
    ]
    assert "50.0[46.0, 54.0]" in ranking.text


def test_estimands_in_use_are_explained_and_one_run_is_said_to_be_one() -> None:
    single = an_estimate(0.5, estimand=Estimand.E2, num_runs=1)
    text = outline(to_html(a_comparison([a_row("all", results={MEAN: single})]))).find("read").text
    assert ONE_RUN in text
    assert "E2: these checkpoints, questions like these" in text
    assert "E4" not in text
    several = (
        outline(to_html(a_comparison([a_row("all", results={MEAN: an_estimate(0.5)})]))).find("read").text
    )
    assert ONE_RUN not in several


def test_the_warning_stands_before_any_number(page: str) -> None:
    note = next(outline(page).all("aside"))
    assert (note.text, note.attributes["role"]) == ("Scale tiny tests the machinery.", "note")
    assert page.index("Scale tiny tests the machinery.") < page.index("<main")


def test_bands_are_called_what_they_are(comparison: Comparison, page: str) -> None:
    assert "95 % simultaneous bands" in page
    rows = tuple(replace(row, band={}) for row in comparison.rows)
    pointwise = to_html(replace(comparison, rows=rows))
    assert "95 % pointwise intervals, which do not hold for several k at once" in pointwise
    assert "simultaneous" not in outline(pointwise).find("pass").text


def test_questions_are_sorted_from_hard_to_easy_with_their_values_in_a_table() -> None:
    shares = {"b": 0.5, "a": 1.0, "c": 0.0}
    row = a_row("all", results={MEAN: an_estimate(0.5)}, by_question=shares)
    questions = outline(to_html(a_comparison([row]))).find("questions")
    rows = [[cell.text for cell in each.content if not isinstance(cell, str)] for each in questions.all("tr")]
    assert rows == [["question", "all"], ["c", "0.0"], ["b", "50.0"], ["a", "100.0"]]


def test_a_dot_is_a_run_where_runs_are_given_and_else_an_arm(comparison: Comparison, page: str) -> None:
    assert "Each dot is an arm, the mean over its runs." in page
    dot = Dot(setting="qwen", arm="all", benchmark="aime24", seed=0, accuracy=0.5, length=100.0)
    dots = [dot, replace(dot, seed=1, length=120.0)]
    drawn = outline(to_html(comparison, dots=dots)).find("length")
    assert "Each dot is one training run." in drawn.text
    assert [svg.attributes["aria-label"] for svg in drawn.all("svg") if "aria-label" in svg.attributes] == [
        "Accuracy by completion length, qwen: aime24: all: 100 tokens, 50.0; all: 120 tokens, 50.0."
    ]


def test_runs_that_are_missing_stand_with_their_reason(page: str) -> None:
    text = outline(page).find("missing").text
    assert "0a1b2c3d" in text
    assert "loss is NaN at step 3" in text


def test_provenance_says_how_to_do_it_again(page: str) -> None:
    text = outline(page).find("provenance").text
    assert "tokensweep sweep demo scale=tiny seeds=0,1,2\ntokensweep report demo-tiny" in text
    assert "c0ffee123456" in text


def test_a_sweep_without_any_run_has_a_page_that_says_so() -> None:
    page = outline(to_html(a_comparison([a_row("all", seeds=()), a_row("top20", seeds=())])))
    assert "No arm can be compared with a baseline yet." in page.text
    assert "This sweep makes no claims, or none was judged." in page.text
    assert "The sweep has no arms." in outline(to_html(a_comparison([], baseline=None))).text


def test_whatever_a_user_wrote_is_escaped() -> None:
    rows = [
        a_row(
            arm,
            NASTY,
            setting=NASTY,
            results={MEAN: an_estimate(0.5)},
            differences={MEAN: an_estimate(0.5)},
            by_question={NASTY: 0.5},
            remark=NASTY,
            caution=NASTY,
        )
        for arm in ("all", NASTY)
    ]
    judged = a_judgement(Verdict.refuted, rule=NASTY, reason=NASTY, grade=NASTY, setting=NASTY)
    judged = replace(judged, claim=replace(judged.claim, id=NASTY, left=NASTY, source=NASTY))
    comparison = a_comparison(
        rows,
        **dict.fromkeys(("name", "scale", "paper", "question", "note"), NASTY),
        contrasts=(a_contrast(NASTY, setting=NASTY, benchmark=NASTY, remark=NASTY),),
        judgements=(judged,),
        troubles=(a_trouble(error=f"{NASTY}\n{NASTY}", arm=NASTY, run_id=NASTY),),
        code=(NASTY,),
    )
    curves = [replace(curve, setting=NASTY) for curve in made_curves([NASTY], num_points=3)]
    elements = outline(to_html(comparison, curves))
    assert [len(each.content) for each in elements.all("script")] == [1]
    assert "alert" not in next(elements.all("script")).text
    assert NASTY in elements.text


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    elements = list(outline(page).all())
    assert not [e for e in elements if e.name in {"link", "iframe", "object", "embed", "base", "img"}]
    sources = [
        e.attributes[key] for e in elements for key in ("src", "href", "srcset") if key in e.attributes
    ]
    assert all(source.startswith(("#", "data:image/png;base64,")) for source in sources)
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    policy = next(e for e in elements if e.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none';")


def test_the_same_comparison_gives_the_same_bytes(comparison: Comparison, page: str) -> None:
    assert to_html(comparison, made_curves(drawn_arms(comparison), num_points=8)) == page


@pytest.mark.slow
def test_two_hundred_arms_on_five_benchmarks_stay_small() -> None:
    benchmarks = ["aime24", "aime25", "hmmt", "math500", "amc23"]
    comparison = simulated(num_arms=200, benchmarks=benchmarks, num_questions=150, num_samples=64)
    curves = made_curves(drawn_arms(comparison))
    page = to_html(comparison, curves)
    assert len(page.encode()) < 2_500_000
    assert "Plots show 13 of 200 arms" in page
    assert "arm199" in page


def test_differences_of_pass_at_k_have_a_curve_and_their_numbers(comparison: Comparison, page: str) -> None:
    gain = outline(page).find("gain")
    assert [figure.text for figure in gain.all("figcaption")] == [
        *("qwen: all benchmarks pooled", "qwen: aime24", "qwen: aime25"),
    ]
    (row,) = (r for r in comparison.rows if (r.arm, r.benchmark) == ("top20", "aime24"))
    value = 100 * row.differences[MEAN].value
    written = f"{value:+.1f}[{value - 5:+.1f}, {value + 5:+.1f}]".replace("-", "\N{MINUS SIGN}")
    table = list(gain.all("table"))[1]
    assert [row.text for row in table.all("tr")][1] == f"top20{written * 4}"  # k = 1, 2, 4, 8
    assert "all" not in [next(row.all("th")).text for row in table.all("tr")]


def test_a_page_is_written_with_the_curves_of_its_runs(store: Path, tmp_path: Path) -> None:
    path = write_page(compare(store, "demo"), store, tmp_path / "report")
    training = outline(path.read_text(encoding="utf-8")).find("training")
    assert path == tmp_path / "report" / "report.html"
    assert [figure.text for figure in training.all("figcaption")] == [
        "ops: reward",
        "ops: kept fraction of tokens",
    ]


def test_a_page_of_a_sweep_that_is_not_there_is_an_error(store: Path, tmp_path: Path) -> None:
    gone = replace(compare(store, "demo"), name="gone")
    with pytest.raises((ValueError, OSError), match="gone"):
        write_page(gone, store, tmp_path / "report")
