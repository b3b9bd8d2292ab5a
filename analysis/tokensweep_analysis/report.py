"""A comparison for people: tables in the terminal, a Markdown report, and the same numbers as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.text import Text

from tokensweep.files import replacing, write_text
from tokensweep_analysis.intervals import NO_SPREAD, Estimate
from tokensweep_analysis.layout import Cell, Column, FittedTable
from tokensweep_analysis.metrics import Kind, Metric
from tokensweep_analysis.passk import guess_floor
from tokensweep_analysis.tables import Comparison, Row, Trouble, to_frame

_NOTHING = "-"
_NO_INTERVAL = "[none]"
_PROSE_WIDTH = 100  # longer lines are hard to read
_MEAN = Metric(Kind.pass_at, 1)
_BOLD = "A difference in bold has an interval that excludes 0."


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
    """Per setting and benchmark tables of results, reliability and costs; what they mean, what is missing."""
    sections = list(_sections(comparison))
    parts: list[RenderableType] = []
    for section in sections:
        own = [_prose(section.own_facts(sections)), ""] if section.own_facts(sections) else []
        tables = [part for table in section.tables for part in (FittedTable(table), "")]
        parts.append(Group(Text(section.title, style="bold"), "", *tables, *own))
    shared = _shared_facts(sections)
    if any(cell.strong for section in sections for column in section.results for cell in column.cells):
        shared.append(_BOLD)
    parts.append(Group(_prose(shared), *([""] if comparison.note else []), _prose([comparison.note]), ""))
    if comparison.troubles:
        lines = [line for trouble in comparison.troubles for line in _trouble_lines(trouble)]
        parts.append(Group(Text("Not in the table", style="bold"), *lines, ""))
    return parts


def to_markdown(comparison: Comparison) -> str:
    """The report as GitHub-flavoured Markdown."""
    sections = list(_sections(comparison))
    lines = [f"# {comparison.name}", ""]
    facts = [("Question", comparison.question), ("Paper", comparison.paper)]
    lines += [line for name, text in facts if text for line in (f"{name}: {text}", "")]
    for section in sections:
        lines += [f"## {_escaped(section.title)}", ""]
        first, *others = section.tables
        lines += [line for t in ((*first, *section.df), *others) for line in (*_markdown(t), "")]
        lines += _paragraph(section.own_facts(sections))
    lines += ["## What the numbers are", "", *_paragraph(_shared_facts(sections))]
    lines += _paragraph([comparison.note])
    if comparison.troubles:
        lines += ["## Not in the table", "", *_markdown(_trouble_columns(comparison), align="---"), ""]
    return "\n".join(lines)


def to_compact_markdown(comparison: Comparison) -> str:
    """One table per setting and benchmark, and one line on what the numbers are. For a README.

    It has the smallest and the largest pass@k, and of the differences only the smallest k.
    """
    sections = list(_sections(comparison, compact=True))
    lines = []
    for section in sections:
        lines += [
            f"**{_escaped(section.title)}**",
            "",
            *_markdown((*section.results, *section.costs[1:])),
            "",
        ]
        lines += _paragraph(section.own_facts(sections))
    lines += _paragraph([*_shared_facts(sections), comparison.note])
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class _Section:
    """One setting and benchmark, as text. The first column of each table holds the arms."""

    title: str
    results: tuple[Column, ...]
    df: tuple[Column, ...]  # behind the results where there is room for it
    reliability: tuple[Column, ...]
    costs: tuple[Column, ...]
    facts: tuple[str, ...]  # sentences on what its numbers are

    @property
    def tables(self) -> list[tuple[Column, ...]]:
        """Those that hold more than the names of the arms."""
        return [table for table in (self.results, self.reliability, self.costs) if len(table) > 1]

    def own_facts(self, sections: Sequence[_Section]) -> list[str]:
        """Those that do not hold for all of ``sections``."""
        return [fact for fact in self.facts if fact not in _shared_facts(sections)]


def _shared_facts(sections: Sequence[_Section]) -> list[str]:
    """Sentences that hold for every section: said once."""
    first = sections[0].facts if sections else ()
    return [fact for fact in first if all(fact in section.facts for section in sections)]


def _sections(comparison: Comparison, *, compact: bool = False) -> Iterator[_Section]:
    for (setting, benchmark), group in groupby(comparison.rows, key=lambda row: (row.setting, row.benchmark)):
        rows = list(group)
        shown = _shown([each for each in comparison.metrics if any(each in row.results for row in rows)])
        passes = [each for each in shown if each.kind is Kind.pass_at]
        compared = [each for each in passes if any(each in row.differences for row in rows)]
        compared = compared[:1] if compact else compared
        costs = [_column(name, [cell(row) for row in rows]) for name, cell in _costs(compact=compact)]
        arms = _column("arm", [row.arm for row in rows])
        results = (arms, *_results(comparison, rows, passes, compared, compact=compact))
        others = [] if compact else [each for each in shown if each not in passes]
        reliability = (arms, *(_metric_column(each, rows) for each in others))
        yield _Section(
            title=benchmark if setting in ("", benchmark) else f"{setting}: {benchmark}",
            results=results,
            df=tuple(
                _column(f"df@{metric.at:g}", [_df(row.differences.get(metric)) for row in rows])
                for metric in compared[:1]
            ),
            reliability=reliability,
            costs=(arms, *(c for c in costs if any(str(cell) != _NOTHING for cell in c.cells))),
            facts=(
                *_facts(comparison, rows, passes),
                *(() if compact else _explained(shown)),
                *_missing((*results, *reliability)),
            ),
        )


def _shown(metrics: Sequence[Metric]) -> list[Metric]:
    """Of pass@k the smallest and the largest k, of pass^k and maj@k the largest; the CSV has them all."""
    shown: list[Metric] = []
    for kind, group in groupby(metrics, key=lambda metric: metric.kind):
        own = list(group)
        kept = {Kind.pass_at: [own[0], own[-1]], Kind.cover_at: own}.get(kind, own[-1:])
        shown += dict.fromkeys(kept)
    return shown


def _metric_column(metric: Metric, rows: Sequence[Row], *interval: str) -> Column:
    """A metric with its interval."""
    return Column(Cell((str(metric), *interval)), tuple(_estimate(row.results.get(metric)) for row in rows))


def _results(
    comparison: Comparison,
    rows: Sequence[Row],
    passes: Sequence[Metric],
    compared: Sequence[Metric],
    *,
    compact: bool,
) -> Iterator[Column]:
    """How many runs count, pass@k, and the differences to the baseline."""
    interval = (f"[{100 * comparison.confidence:.0f} %]",) if compact else ()
    yield Column(Cell(("runs",)), tuple(_runs(row) for row in rows))
    for metric in passes:
        yield _metric_column(metric, rows, *interval)
    for metric in compared:
        header = Cell((str(metric), f"vs {comparison.baseline}", *interval))
        yield Column(header, tuple(_difference(row.differences.get(metric)) for row in rows))


def _column(header: str, cells: Iterable[str]) -> Column:
    """A column whose header may be broken at its first space."""
    return Column(Cell(tuple(header.split(" ", 1))), tuple(Cell((cell,)) for cell in cells))


def _runs(row: Row) -> Cell:
    """Runs that count of those planned, and how many failed if any did."""
    done = f"{len(row.seeds)}/{row.num_planned}"
    return Cell((f"{done},", f"{row.num_failed} failed") if row.num_failed else (done,))


def _difference(estimate: Estimate | None) -> Cell:
    """Strong when its interval excludes 0."""
    strong = estimate is not None and (estimate.low > 0 or estimate.high < 0)
    return Cell(_estimate(estimate, sign="+").parts, strong=strong)


def _estimate(estimate: Estimate | None, *, sign: str = "") -> Cell:
    """Points out of 100 and the interval in brackets."""
    if estimate is None:
        return Cell((_NOTHING,))
    value = f"{100 * estimate.value:{sign}.1f}"
    if estimate.low != estimate.low:  # NaN: the data give no interval
        return Cell((value, _NO_INTERVAL))
    return Cell((value, f"[{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"))


def _df(estimate: Estimate | None) -> str:
    return _number(estimate.df if estimate else None, "{:.1f}")


def _number(value: float | None, form: str) -> str:
    return _NOTHING if value is None or value != value else form.format(value)


def _share(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.1f}"


_Cost = tuple[str, Callable[[Row], str]]
_KEPT: tuple[_Cost, ...] = (
    ("tokens kept %", lambda row: _share(row.kept_fraction)),
    ("entropy kept %", lambda row: _share(row.entropy_kept_fraction)),
)
_EVALUATED: tuple[_Cost, ...] = (
    ("truncated %", lambda row: _share(row.truncated_fraction)),
    ("no answer %", lambda row: _share(row.no_answer_fraction)),
    ("length", lambda row: _number(row.length_mean, "{:.1f}")),
    ("tokens generated", lambda row: _number(row.generated_tokens, "{:,.0f}")),
)
_TIME: tuple[_Cost, ...] = (("seconds", lambda row: _number(row.seconds, "{:.0f}")),)


def _costs(*, compact: bool) -> tuple[_Cost, ...]:
    return (*_KEPT, *_TIME) if compact else (*_KEPT, *_EVALUATED, *_TIME)


def _facts(comparison: Comparison, rows: Sequence[Row], passes: Sequence[Metric]) -> Iterator[str]:
    """What the numbers of a table are, and what they are not, a sentence each."""
    done = [row for row in rows if row.results]
    estimates = [each for row in done for each in (*row.results.values(), *row.differences.values())]
    estimands = sorted({each.estimand.value for each in estimates})
    several = any(each.num_runs > 1 for each in estimates)
    yield (
        f"Points out of 100 with {100 * comparison.confidence:.0f} % intervals over "
        f"{'questions and training seeds' if several else 'questions'}, "
        f"estimand {'; '.join(estimands) or 'none yet'}."
    )
    yield (
        f"Run at scale {comparison.scale or 'not named'}, "
        f"seeds {' '.join(map(str, sorted({seed for row in done for seed in row.seeds}))) or 'none'}, "
        f"{_span(row.num_questions for row in done)} questions, "
        f"{_span(row.num_samples for row in done)} samples of each, "
        f"code {' '.join(comparison.code) or 'unknown'}."
    )
    yield from _floor_facts(rows, passes)
    if any(row.differences for row in done):
        yield (
            f"Differences are to {comparison.baseline}, paired by question, and by seed where seeds agree; "
            "intervals are not adjusted for the number of comparisons."
        )
    yield "Tokens and seconds are per run, rates are of the evaluation."
    for caution in dict.fromkeys(row.caution for row in rows if row.caution):
        yield f"Contamination: {caution}."
    for remark in dict.fromkeys(row.remark for row in rows if row.remark):
        yield f"{', '.join(row.arm for row in rows if row.remark == remark)}: {remark}."


def _missing(columns: Iterable[Column]) -> Iterator[str]:
    """Why a cell has no interval, if one has none."""
    if any(_NO_INTERVAL in cell.parts for column in columns for cell in column.cells):
        yield f"{NO_SPREAD.capitalize()}."


def _explained(shown: Sequence[Metric]) -> Iterator[str]:
    """One sentence on what each kind of metric is."""
    if _MEAN in shown:
        yield f"{_MEAN} is the share of right samples."
    for kind, metric in {metric.kind: metric for metric in shown if metric != _MEAN}.items():
        yield {
            Kind.pass_at: f"{metric} is the chance that at least one of {metric.at:g} samples is right.",
            Kind.maj_at: f"{metric} is the chance that the most frequent answer of {metric.at:g} samples is "
            "right, with ties split and without the samples that give no answer.",
            Kind.pass_hat: f"{metric} is the chance that all of {metric.at:g} samples are right.",
            Kind.cover_at: "cover@tau is the share of questions with at least the share tau of their samples "
            "right, a figure that is biased where samples are few.",
        }[kind]


def _floor_facts(rows: Sequence[Row], passes: Sequence[Metric]) -> Iterator[str]:
    """What guessing would reach, where the number of possible answers is known."""
    sizes = sorted({row.answer_space for row in rows if row.answer_space})
    for size in sizes:
        floors = " and ".join(f"{each} {100 * guess_floor(size, int(each.at)):.1f}" for each in passes)
        yield f"Blind guessing among {size:,} answers would reach {floors}."


def _span(counts: Iterator[int]) -> str:
    distinct = sorted(set(counts))
    if not distinct:
        return "0"
    return str(distinct[0]) if len(distinct) == 1 else f"{distinct[0]} to {distinct[-1]}"


def _trouble_columns(comparison: Comparison) -> tuple[Column, ...]:
    troubles = comparison.troubles
    return (
        _column("setting", [t.setting for t in troubles]),
        _column("arm", [t.arm for t in troubles]),
        _column("seed", [str(t.seed) for t in troubles]),
        _column("run", [t.run_id for t in troubles]),
        _column("state", [t.state for t in troubles]),
        _column("error", [_first_line(t.error) for t in troubles]),
    )


def _trouble_lines(trouble: Trouble) -> Iterator[RenderableType]:
    """For the terminal, where an error is too long for a table."""
    where = ", ".join(filter(None, (trouble.setting, trouble.arm, f"seed {trouble.seed}")))
    yield Text(f"{where}: {trouble.state}, run {trouble.run_id}")
    if trouble.error:
        yield Padding(_prose([_first_line(trouble.error)]), (0, 0, 0, 4))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _prose(sentences: Sequence[str]) -> RenderableType:
    """A paragraph; brackets in it are no markup."""
    text = " ".join(filter(None, sentences))
    return Constrain(Text(text), _PROSE_WIDTH) if text else Text("", end="")


def _paragraph(sentences: Sequence[str]) -> list[str]:
    text = " ".join(filter(None, sentences))
    return [text, ""] if text else []


def _markdown(columns: Sequence[Column], *, align: str = "---:") -> Iterator[str]:
    """A table whose columns after the first are aligned to the right, as numbers are."""
    yield "| " + " | ".join(_escaped(str(column.header)) for column in columns) + " |"
    yield "| --- |" + f" {align} |" * len(columns[1:])
    for row in zip(*(column.cells for column in columns), strict=True):
        yield "| " + " | ".join(_escaped(str(cell)) for cell in row) + " |"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
