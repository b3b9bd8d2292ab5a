"""The tables of a page. Each has a caption, names its rows and columns for screen readers, and can scroll."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan

from tokensweep_analysis.claims import Judgement, Verdict
from tokensweep_analysis.contrasts import Contrast
from tokensweep_analysis.intervals import Estimate
from tokensweep_analysis.metrics import AVERAGE, Metric
from tokensweep_analysis.page.markup import Html, join, tag
from tokensweep_analysis.page.numbers import (
    NOTHING,
    compact,
    detected,
    duration,
    excludes_zero,
    interval,
    number,
    p_value,
    points,
)
from tokensweep_analysis.page.selection import (
    Section,
    ranked,
)
from tokensweep_analysis.sections import SHARE_OF_RIGHT, shown_metrics
from tokensweep_analysis.tables import Comparison, Row, Trouble
from tokensweep_analysis.verdict_tables import said
from tokensweep_analysis.wording import percent

_NBSP = "\N{NO-BREAK SPACE}"
_SYMBOLS = {  # verdicts are told apart by word and symbol, colour only repeats them
    Verdict.reproduced: "✓",
    Verdict.refuted: "✗",
    Verdict.inconclusive: "?",
    Verdict.not_comparable: "≠",
    Verdict.not_run: "○",
}


@dataclass(frozen=True)
class Column:
    """A header and a cell per row; numbers stand to the right."""

    header: str
    cells: Sequence[str]
    is_text: bool = False
    hint: str = ""  # what the header means, for the pointer and as the header's title


def data_table(
    columns: Sequence[Column],
    *,
    caption: str,
    key: str,
    is_sortable: bool = False,
    is_explained: bool = False,
    below: Sequence[Html] = (),
) -> Html:
    """A table whose first column names its rows, in a region that scrolls and takes the keyboard's focus.

    ``below`` is text for each row that takes the whole width under it; such a table cannot be sorted. With
    ``is_explained`` the hints of its columns follow it: as titles of headers only a pointer finds them.
    """
    name = f"caption-{key}"
    head = tag("tr", *(_header(column) for column in columns))
    body = [
        tag("tr", *(_cell(columns[place], cell, place) for place, cell in enumerate(row)))
        for row in zip(*(column.cells for column in columns), strict=True)
    ]
    if below:
        body = [join([row, _under(text, len(columns))]) for row, text in zip(body, below, strict=True)]
    table = tag(
        "table",
        tag("caption", caption, id=name),
        tag("thead", head),
        tag("tbody", join(body, "\n")),
        class_="sortable" if is_sortable and len(body) > 1 else None,
    )
    region = tag("div", table, class_="scroll", role="region", aria_labelledby=name, tabindex=0)
    return join([region, _explanations(columns)]) if is_explained else region


def _explanations(columns: Sequence[Column]) -> Html:
    """What the headers mean, folded away."""
    known = [(column.header, column.hint) for column in columns if column.hint]
    listed = [item for name, hint in known for item in (tag("dt", name), tag("dd", hint))]
    return tag("details", tag("summary", "What the columns are"), tag("dl", *listed))


def _header(column: Column) -> Html:
    return tag(
        "th", column.header, scope="col", class_="text" if column.is_text else None, title=column.hint or None
    )


def _under(text: Html, width: int) -> Html:
    """A row of one cell. Its text stays in view where the table is wider than its region."""
    cell = tag("td", tag("div", text), colspan=width, class_="text")
    return tag("tr", cell, class_="under")


def _cell(column: Column, content: str, place: int) -> Html:
    if place == 0:
        return tag("th", content, scope="row")
    return tag("td", content, class_="text" if column.is_text else None)


def claims_table(judgements: Sequence[Judgement]) -> Html:
    """A row per claim and setting: what was claimed and the verdict; below it why, and by which rule."""
    rows = list(judgements)
    columns = [
        Column("claim", [_claim(each) for each in rows]),
        Column("verdict", [_verdict(each) for each in rows], is_text=True),
        Column("setting", [each.setting or NOTHING for each in rows], is_text=True),
        Column("difference", [_at_level(each.estimate) for each in rows], hint=_LEFT_MINUS_RIGHT),
        Column("detects", [detected(each.detectable) for each in rows], hint=_DETECTABLE_THEN),
        Column("claimed", [points(each.claim.claimed, sign="+") for each in rows]),
        Column("p", [p_value(each.p_value) for each in rows]),
        Column(
            f"Holm{_NBSP}p",
            [p_value(each.p_holm) for each in rows],
            hint="adjusted over the claims of the family",
        ),
        Column(f"P(d{_NBSP}>{_NBSP}0)", [number(each.p_above_0, ".3f") for each in rows], hint=_SCEPTICAL),
        Column(f"P(d{_NBSP}>{_NBSP}δ)", [_above_smallest(each) for each in rows], hint=_SCEPTICAL),
    ]
    return data_table(
        without_empty(columns),
        caption="Claims and verdicts, differences in points",
        key="claims",
        below=[_why(each) for each in rows],
        is_explained=True,
    )


_LEFT_MINUS_RIGHT = "left arm minus right arm, its interval, and the interval's level after Holm's adjustment"
_SCEPTICAL = "believed by one who expected no difference, give or take 3 points"


def _claim(each: Judgement) -> Html:
    """Its id, what it says, and where it was said."""
    parts = [tag("strong", each.claim.id), tag("span", said(each), class_="sub")]
    return join([*parts, *([tag("span", each.claim.source, class_="sub")] if each.claim.source else [])])


def _verdict(each: Judgement) -> Html:
    """Symbol and word; the grade of a reproduced claim below."""
    symbol = tag("span", _SYMBOLS[each.verdict], aria_hidden="true")
    badge = tag("span", symbol, " ", str(each.verdict), class_=f"verdict {each.verdict.name}")
    return join([badge, tag("span", each.grade, class_="sub")]) if each.grade else badge


def _above_smallest(each: Judgement) -> Html | str:
    if each.p_above_smallest is None:
        return NOTHING
    return join(
        [
            number(each.p_above_smallest, ".3f"),
            tag("span", f"δ = {points(each.smallest_effect)}", class_="sub"),
        ]
    )


def _why(each: Judgement) -> Html:
    """The rule and, on a line of its own, what it saw."""
    rule = [tag("span", f"{each.rule[:1].upper()}{each.rule[1:]}.", class_="sub")] if each.rule else []
    return join([tag("span", each.reason), *rule])


def contrasts_table(
    contrasts: Sequence[Contrast], *, key: str, caption: str, is_explained: bool = False
) -> Html:
    """A row per contrast: the difference, what is known about it, and what could have been found."""
    rows = list(contrasts)
    columns = [Column("contrast", [f"{each.arm} − {each.baseline}" for each in rows]), *differences(rows)]
    return data_table(
        without_empty(columns), caption=caption, key=key, is_sortable=True, is_explained=is_explained
    )


def differences(rows: Sequence[Contrast]) -> list[Column]:
    """Of each difference where it was seen, what is known about it, and what could have been found."""
    estimates = [each.estimate for each in rows]
    return [
        Column("benchmark", [each.benchmark for each in rows], is_text=True),
        Column("metric", [str(each.metric) for each in rows], is_text=True),
        Column(
            "difference", [_marked(each) for each in estimates], hint="points; bold: the interval excludes 0"
        ),
        Column("interval", [interval(each, sign="+") for each in estimates], hint="not adjusted"),
        Column("df", [number(each.df) for each in estimates], hint="Satterthwaite's degrees of freedom"),
        Column("p", [p_value(each.p_value) for each in rows], hint="two-sided, for no difference"),
        Column(f"Holm{_NBSP}p", [p_value(each.p_holm) for each in rows], hint="adjusted over the arms"),
        Column("detects", [detected(each.detectable) for each in rows], hint=_DETECTABLE_ALONE),
        Column("estimand", [each.estimand.name for each in estimates], is_text=True),
        Column("remark", [each.remark or each.estimate.remark for each in rows], is_text=True),
    ]


_DETECTABLE = "the smallest true difference that such a comparison finds in 80 of 100 repetitions"
_DETECTABLE_ALONE = f"{_DETECTABLE}, at the 5 % level before any adjustment"
_DETECTABLE_THEN = f"{_DETECTABLE}, at the level that Holm left this claim"


def ranking_table(
    section: Section, comparison: Comparison, *, limit: int, key: str, is_explained: bool = False
) -> Html:
    """The best ``limit`` arms of a setting and benchmark, best mean accuracy first."""
    rows = ranked(section.rows)[:limit]
    metrics = [each for each in comparison.metrics if any(each in row.results for row in rows)]
    columns = [
        Column("arm", [_arm(row.arm, comparison.baseline) for row in rows]),
        Column("runs", [_runs(row) for row in rows], hint="training runs that count, of those planned"),
        *(_metric_column(metric, rows) for metric in shown_metrics(metrics)),
        *(Column(name, [cell(row) for row in rows], hint=hint) for name, cell, hint in _RATES),
    ]
    return data_table(
        without_empty(columns),
        caption=tag("h3", section.title),
        key=key,
        is_sortable=True,
        is_explained=is_explained,
    )


def _metric_column(metric: Metric, rows: Sequence[Row]) -> Column:
    return Column(
        str(metric),
        [stacked(row.results.get(metric)) for row in rows],
        hint=SHARE_OF_RIGHT if metric == AVERAGE else "",
    )


_RATES: tuple[tuple[str, Callable[[Row], str], str], ...] = (
    ("truncated %", lambda row: points(row.truncated_fraction), "samples that hit the length limit"),
    (
        f"no answer{_NBSP}%",
        lambda row: points(row.no_answer_fraction),
        "samples without an answer in the asked-for form",
    ),
    (
        "grader errors %",
        lambda row: points(row.error_fraction or None),
        "samples the grader failed on; count as wrong",
    ),
    (
        "length",
        lambda row: number(row.length_mean, ",.0f" if (row.length_mean or 0) >= 100 else ".1f"),
        "completion tokens, mean over samples",
    ),
    (
        f"tokens kept{_NBSP}%",
        lambda row: points(row.kept_fraction),
        "trained tokens with a weight, mean over steps",
    ),
    (
        f"entropy kept{_NBSP}%",
        lambda row: points(row.entropy_kept_fraction),
        "share of the entropy that lies in them",
    ),
    ("tokens generated", lambda row: compact(row.generated_tokens), "per run, for training"),
    ("device hours", lambda row: number(row.device_hours, ".2f"), "per run, of its devices together"),
    (f"time per{_NBSP}run", lambda row: duration(row.seconds), "training and evaluation, wall clock"),
)


def _arm(arm: str, baseline: str | None) -> Html | str:
    return join([arm, tag("span", "baseline", class_="sub")]) if arm == baseline else arm


def _runs(row: Row) -> Html | str:
    done = f"{len(row.seeds)}/{row.num_planned}"
    return join([done, tag("span", f"{row.num_failed} failed", class_="sub")]) if row.num_failed else done


def troubles_table(troubles: Sequence[Trouble]) -> Html:
    """Runs that do not count, and why; the first line of the error, the rest folds out."""
    columns = [
        Column("run", [tag("code", each.run_id) for each in troubles]),
        Column("setting", [each.setting for each in troubles], is_text=True),
        Column("arm", [each.arm for each in troubles], is_text=True),
        Column("seed", [str(each.seed) for each in troubles]),
        Column("state", [each.state for each in troubles], is_text=True),
        Column("error", [_error(each.error) for each in troubles], is_text=True),
    ]
    return data_table(columns, caption="Runs that are not in the tables", key="troubles", is_sortable=True)


def _error(error: str) -> Html | str:
    first, _, rest = error.strip().partition("\n")
    if not rest:
        return first
    return tag("details", tag("summary", first), tag("pre", rest[:_MAX_ERROR]))


_MAX_ERROR = 2000  # characters; the run folder has the rest


def stacked(estimate: Estimate | None, *, sign: str = "") -> Html | str:
    """Value above its interval."""
    if estimate is None:
        return NOTHING
    ends = tag("span", interval(estimate, sign=sign), class_="sub")
    return join([points(estimate.value, sign=sign), ends])


def _at_level(estimate: Estimate | None) -> Html | str:
    """Value above its interval and the level of that: rows of a table differ in it."""
    if estimate is None or isnan(estimate.low):
        return stacked(estimate, sign="+")
    level = tag("span", f"at {percent(estimate.confidence)}", class_="sub")
    return join([stacked(estimate, sign="+"), level])


def _marked(estimate: Estimate) -> Html | str:
    value = points(estimate.value, sign="+")
    return tag("strong", value) if excludes_zero(estimate) else value


def without_empty(columns: Sequence[Column]) -> list[Column]:
    """Without the columns that say nothing in any row."""
    return [column for column in columns if any(cell not in ("", NOTHING) for cell in column.cells)]


def remarks(section: Section) -> Iterator[str]:
    """What a reader must know of a table and of its arms, each once with the arms that it holds for."""
    if section.pooled:
        yield f"The mean over {', '.join(section.pooled)}, each weighing the same."
    for remark in dict.fromkeys(row.remark for row in section.rows if row.remark):
        yield f"{', '.join(row.arm for row in section.rows if row.remark == remark)}: {remark}."
    for caution in dict.fromkeys(row.caution for row in section.rows if row.caution):
        yield f"Contamination: {caution}."
