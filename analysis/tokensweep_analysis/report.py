"""A comparison for people: tables in the terminal, a Markdown report, and every number as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.text import Text

from tokensweep.files import replacing, write_text
from tokensweep_analysis.frames import claim_frame, contrast_frame, ranking_frame
from tokensweep_analysis.layout import Column, FittedTable
from tokensweep_analysis.search.blocks import Block, blocks_of
from tokensweep_analysis.search.frames import FILE_NAME as SEARCH_CSV
from tokensweep_analysis.search.frames import search_frame
from tokensweep_analysis.search.summary import summary_of
from tokensweep_analysis.sections import Section, column, sections_of, shared_facts
from tokensweep_analysis.tables import Comparison, Trouble
from tokensweep_analysis.verdict_tables import HOW_TO_READ, reasons, verdict_columns

_PROSE_WIDTH = 100  # longer lines are hard to read
_BOLD = "A difference in bold has an interval that excludes 0."


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Where a report was written, and what to show in a terminal."""

    markdown: Path
    tables: tuple[Path, ...]
    renderables: tuple[RenderableType, ...]


def write_report(comparison: Comparison, folder: Path) -> ReportFiles:
    """Write ``report.md``, ``ranking.csv``, ``contrasts.csv`` and ``claims.csv``, each in one step.

    When the sweep whose folder holds ``folder`` is a search, ``search.csv`` too, and the report is about its
    trials instead of about arms. Raises OSError naming the file that cannot be written, ValueError when the
    trials of a search cannot be read.
    """
    text = folder / "report.md"
    search = summary_of(comparison, folder.parent)
    blocks = list(blocks_of(search)) if search else []
    shown = search.comparison if search else comparison
    sections = [] if search else list(sections_of(comparison))
    write_text(text, _markdown_report(shown, sections, blocks))
    frames = {
        folder / "ranking.csv": ranking_frame(comparison),
        folder / "contrasts.csv": contrast_frame(comparison),
        folder / "claims.csv": claim_frame(comparison),
        **({folder / SEARCH_CSV: search_frame(search)} if search else {}),
    }
    for path, frame in frames.items():
        _write_csv(path, frame)
    return ReportFiles(
        markdown=text, tables=tuple(frames), renderables=tuple(_rendered(shown, sections, blocks))
    )


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    with replacing(path) as partial:
        frame.to_csv(partial, index=False)


def render(comparison: Comparison) -> list[RenderableType]:
    """Tables per setting and benchmark, what they mean, what is missing, and what became of the claims."""
    return _rendered(comparison, list(sections_of(comparison)))


def _rendered(
    comparison: Comparison, sections: Sequence[Section], blocks: Sequence[Block] = ()
) -> list[RenderableType]:
    parts: list[RenderableType] = [_block(each) for each in blocks]
    for section in sections:
        own = [_prose(section.own_facts(sections)), ""] if section.own_facts(sections) else []
        tables = [part for table in section.tables for part in (FittedTable(table), "")]
        parts.append(Group(Text(section.title, style="bold"), "", *tables, *own))
    shared = shared_facts(sections)
    if any(
        cell.strong for section in sections for table in section.contrasts for c in table for cell in c.cells
    ):
        shared.append(_BOLD)
    if not blocks:
        parts.append(Group(_prose(shared), *([""] if comparison.note else []), _prose([comparison.note]), ""))
    if comparison.troubles:
        lines = [line for trouble in comparison.troubles for line in _trouble_lines(trouble)]
        parts.append(Group(Text("Not in the table", style="bold"), *lines, ""))
    if comparison.judgements:
        because = [part for line in reasons(comparison.judgements) for part in (_prose([line]), "")]
        table = FittedTable(verdict_columns(comparison.judgements))
        parts.append(Group(Text("Claims", style="bold"), "", table, "", *because, _prose([HOW_TO_READ]), ""))
    return parts


def _block(block: Block) -> RenderableType:
    table: list[RenderableType] = [FittedTable(block.columns), ""] if block.columns else []
    said = [part for each in block.paragraphs if each for part in (_prose([each]), "")]
    return Group(Text(block.title, style="bold"), "", *table, *said)


def to_markdown(comparison: Comparison) -> str:
    """The report as GitHub-flavoured Markdown."""
    return _markdown_report(comparison, list(sections_of(comparison)))


def _markdown_report(
    comparison: Comparison, sections: Sequence[Section], blocks: Sequence[Block] = ()
) -> str:
    lines = [f"# {comparison.name}", ""]
    facts = [("Question", comparison.question), ("Paper", comparison.paper)]
    lines += [line for name, text in facts if text for line in (f"{name}: {text}", "")]
    if comparison.judgements:
        lines += ["## Claims", "", *_markdown(verdict_columns(comparison.judgements)), ""]
        lines += [*(f"- {_escaped(line)}" for line in reasons(comparison.judgements)), "", HOW_TO_READ, ""]
    for block in blocks:
        lines += [f"## {block.title}", "", *((*_markdown(block.columns), "") if block.columns else ())]
        lines += [line for each in block.paragraphs for line in _paragraph([_escaped(each)])]
    for section in sections:
        lines += [f"## {_escaped(section.title)}", ""]
        lines += [line for table in section.tables for line in (*_markdown(table), "")]
        lines += _paragraph(section.own_facts(sections))
    if not blocks:
        lines += ["## What the numbers are", "", *_paragraph(shared_facts(sections))]
        lines += _paragraph([comparison.note])
    if comparison.troubles:
        lines += ["## Not in the table", "", *_markdown(_trouble_columns(comparison), align="---"), ""]
    return "\n".join(lines)


def to_compact_markdown(comparison: Comparison) -> str:
    """One table per setting and benchmark, and one line on what the numbers are. For a README.

    It has the smallest and the largest pass@k, and of differences and effects only the smallest k.
    """
    sections = list(sections_of(comparison, compact=True))
    lines = []
    for section in sections:
        lines += [
            f"**{_escaped(section.title)}**",
            "",
            *_markdown((*section.results, *section.costs[1:])),
            "",
            *(line for table in section.effects for line in (*_markdown(table), "")),
        ]
        lines += _paragraph(section.own_facts(sections))
    lines += _paragraph([*shared_facts(sections), comparison.note])
    return "\n".join(lines)


def _trouble_columns(comparison: Comparison) -> tuple[Column, ...]:
    troubles = comparison.troubles
    return (
        column("setting", [t.setting for t in troubles]),
        column("arm", [t.arm for t in troubles]),
        column("seed", [str(t.seed) for t in troubles]),
        column("run", [t.run_id for t in troubles]),
        column("state", [t.state for t in troubles]),
        column("error", [_first_line(t.error) for t in troubles]),
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
    yield "| " + " | ".join(_escaped(str(each.header)) for each in columns) + " |"
    yield "| --- |" + f" {align} |" * len(columns[1:])
    for row in zip(*(each.cells for each in columns), strict=True):
        yield "| " + " | ".join(_escaped(str(cell)) for cell in row) + " |"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
