"""A comparison for people: tables in the terminal, a Markdown report, and the same numbers as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tokensweep.files import replacing, write_text
from tokensweep_analysis.intervals import Estimate
from tokensweep_analysis.tables import Comparison, Row, to_frame

_NOTHING = "-"


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Where a report was written, and what to show in a terminal."""

    markdown: Path
    csv: Path
    renderables: tuple[RenderableType, ...]


def write_report(comparison: Comparison, folder: Path) -> ReportFiles:
    """Write ``report.md`` and ``table.csv`` into ``folder``, each in one step.

    Raises OSError naming the file that cannot be written.
    """
    text, table = folder / "report.md", folder / "table.csv"
    write_text(text, to_markdown(comparison))
    with replacing(table) as partial:
        to_frame(comparison).to_csv(partial, index=False)
    return ReportFiles(markdown=text, csv=table, renderables=tuple(render(comparison)))


def render(comparison: Comparison) -> list[RenderableType]:
    """Per setting and benchmark a table of results and one of costs, then what is missing."""
    parts: list[RenderableType] = []
    for section in _sections(comparison):
        parts.append(
            Group(
                _rich(section.title, section.header, [_narrow(row) for row in section.results]),
                _rich("", section.costs_header, section.costs),
                Text(section.caption, style="dim"),
            )
        )
    if comparison.troubles:
        parts.append(_rich("Not in the table", _TROUBLES_HEADER, _troubles(comparison)))
    return parts


def to_markdown(comparison: Comparison) -> str:
    """The report as GitHub-flavoured Markdown."""
    lines = [f"# {comparison.name}", ""]
    facts = [("Question", comparison.question), ("Paper", comparison.paper)]
    lines += [line for name, text in facts if text for line in (f"{name}: {text}", "")]
    for section in _sections(comparison):
        lines += [f"## {_escaped(section.title)}", "", *_markdown(section.header, section.results), ""]
        lines += [*_markdown(section.costs_header, section.costs), "", section.caption, ""]
    if comparison.troubles:
        lines += ["## Not in the table", "", *_markdown(_TROUBLES_HEADER, _troubles(comparison)), ""]
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class _Section:
    """One setting and benchmark, as text."""

    title: str
    header: list[str]
    results: list[list[str]]
    costs_header: list[str]
    costs: list[list[str]]
    caption: str


def _sections(comparison: Comparison) -> Iterator[_Section]:
    for (setting, benchmark), group in groupby(comparison.rows, key=lambda row: (row.setting, row.benchmark)):
        rows = list(group)
        ks = [k for k in comparison.ks if any(k in row.pass_at for row in rows)]
        compared = [k for k in ks if any(k in row.difference for row in rows)]
        columns = [(name, cell) for name, cell in _COSTS if any(cell(row) != _NOTHING for row in rows)]
        title = benchmark if setting in ("", benchmark) else f"{setting}: {benchmark}"
        yield _Section(
            title=title,
            header=[
                "arm",
                "runs",
                *(f"pass@{k}" for k in ks),
                *(f"pass@{k} vs {comparison.baseline}" for k in compared),
                *(f"df@{k}" for k in compared[:1]),
            ],
            results=[_results(row, ks, compared) for row in rows],
            costs_header=["arm", *(name for name, _ in columns)],
            costs=[[row.arm, *(cell(row) for _, cell in columns)] for row in rows],
            caption=_caption(comparison, rows),
        )


def _results(row: Row, ks: Sequence[int], compared: Sequence[int]) -> list[str]:
    values = [_estimate(row.pass_at.get(k)) for k in ks]
    differences = [_estimate(row.difference.get(k), sign="+") for k in compared]
    df = [_number(row.difference[k].df if row.difference else None, "{:.1f}") for k in compared[:1]]
    return [row.arm, f"{len(row.seeds)}/{row.num_planned}", *values, *differences, *df]


def _estimate(estimate: Estimate | None, *, sign: str = "") -> str:
    """Points out of 100 with the interval in brackets."""
    if estimate is None:
        return _NOTHING
    value = f"{100 * estimate.value:{sign}.1f}"
    if estimate.low != estimate.low:  # NaN: the data give no interval
        return f"{value} [none]"
    return f"{value} [{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"


def _number(value: float | None, form: str) -> str:
    return _NOTHING if value is None or value != value else form.format(value)


def _share(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.1f}"


_COSTS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("tokens kept %", lambda row: _share(row.kept_fraction)),
    ("entropy kept %", lambda row: _share(row.entropy_kept_fraction)),
    ("truncated %", lambda row: _share(row.truncated_fraction)),
    ("no answer %", lambda row: _share(row.no_answer_fraction)),
    ("length", lambda row: _number(row.length_mean, "{:.1f}")),
    ("tokens generated", lambda row: _number(row.generated_tokens, "{:,.0f}")),
    ("seconds", lambda row: _number(row.seconds, "{:.0f}")),
)


def _caption(comparison: Comparison, rows: Sequence[Row]) -> str:
    """What the numbers of a table are, and what they are not."""
    done = [row for row in rows if row.pass_at]
    estimates = [each for row in done for each in (*row.pass_at.values(), *row.difference.values())]
    estimands = sorted({each.estimand.value for each in estimates})
    parts = [
        f"Points out of 100 with {100 * comparison.confidence:.0f} % intervals over "
        + ("questions and training seeds" if any(each.num_runs > 1 for each in estimates) else "questions"),
        f"estimand {'; '.join(estimands) or 'none yet'}",
        f"scale {comparison.scale or 'not named'}",
        f"{_span(row.num_questions for row in done)} questions",
        f"{_span(row.num_samples for row in done)} samples of each",
        f"seeds {' '.join(map(str, sorted({seed for row in done for seed in row.seeds}))) or 'none'}",
        f"code {' '.join(comparison.code) or 'unknown'}",
    ]
    sentences = [", ".join(parts) + "."]
    if any(row.difference for row in done):
        sentences.append(
            f"Differences are to {comparison.baseline}, paired by question, and by seed where seeds agree; "
            "intervals are not adjusted for the number of comparisons."
        )
    sentences.append("Tokens and seconds are per run, rates are of the evaluation.")
    for remark in dict.fromkeys(row.remark for row in rows if row.remark):
        sentences.append(f"{', '.join(row.arm for row in rows if row.remark == remark)}: {remark}.")
    if comparison.note:
        sentences.append(comparison.note)
    return " ".join(sentences)


def _span(counts: Iterator[int]) -> str:
    distinct = sorted(set(counts))
    if not distinct:
        return "0"
    return str(distinct[0]) if len(distinct) == 1 else f"{distinct[0]} to {distinct[-1]}"


_TROUBLES_HEADER = ["setting", "arm", "seed", "run", "state", "error"]


def _troubles(comparison: Comparison) -> list[list[str]]:
    return [
        [t.setting, t.arm, str(t.seed), t.run_id, t.state, t.error.strip().partition("\n")[0]]
        for t in comparison.troubles
    ]


def _rich(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=Text(title) if title else None, title_justify="left", title_style="bold")
    for place, name in enumerate(header):
        left = place == 0 or header is _TROUBLES_HEADER
        table.add_column(Text(name), justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets are no markup here
    return table


def _narrow(row: Sequence[str]) -> list[str]:
    """Intervals without a space inside, so that a narrow terminal folds the cell before the bracket."""
    return [row[0], *(cell.replace(", ", ",") for cell in row[1:])]


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(map(_escaped, header)) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(map(_escaped, row)) + " |"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
