"""The command ``tokensweep audit``: what a published table of results gets wrong, and what it can support."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokensweep.options import known_sweep, with_store

if TYPE_CHECKING:
    from tokensweep_analysis.published.beside import Pair
    from tokensweep_analysis.published.reader import Cell

_FEWEST_POOLED = 2
_DESCRIPTION = """\
Read a table of published results, one printed number per row, and check what can be checked from the numbers
alone. Every finding names its line; nothing is looked up anywhere.

rules
  average        a printed average (benchmark "mean of 5", "Avg.") is the mean of the cells of its arm, within
                 rounding; when it is not, whether weighing by numbers of questions explains it
  contradiction  one arm, benchmark and metric has one value; a remark like "(Table 1)" makes no other arm
  baseline       a baseline_value is the value of some row of its column (paper, model, benchmark, metric)
  grid           with Q questions and n samples each, a value is a multiple of 1/(Q n), within rounding;
                 when it is not, whether another number of questions explains it. Where the grid is finer
                 than the printed decimals nothing can be said, and that is counted

A slip cannot be right as printed; what is possible but needs to be known is a note. For every difference
value - baseline_value the audit prints a 95 % interval for its protocol and the smallest difference that such
a protocol detects. One training run per arm says nothing about the method.

Keep the printed decimals (45.70, not 45.7): they say how far a number may be rounded. A metric without (%)
whose values are all at most 1 is read as a share; everything is shown in points.
"""
_EXAMPLE = """\
columns (empty where unknown)
{columns}

example of two rows
  arxiv_id,paper,base_model,method,variant,benchmark,metric,k,value,baseline_value,source_note
  ,Our draft,Some-7B,GRPO,,AIME24,avg@16 (%),16,33.3,,"Table 1, temperature 1.0"
  ,Our draft,Some-7B,GRPO,top 20 %,AIME24,avg@16 (%),16,40.0,33.3,"Table 1, temperature 1.0"

  tokensweep audit results.csv
  tokensweep audit results.csv --all --markdown audit.md
  tokensweep audit results.csv --beside forking_tokens-tiny --map top20="top 20 %"
"""


def audit_command(arguments: Sequence[str]) -> None:
    """Audit a file and print what was found; exits 1 with ``--strict`` when there are slips.

    Files are written before anything is printed, so a reader such as head loses none. Raises ValueError for a
    file that is no such table and for an option that does not fit it.
    """
    from rich.console import Console

    from tokensweep_analysis.published.audit import audit_cells
    from tokensweep_analysis.published.beside import lay_beside
    from tokensweep_analysis.published.export import to_frame, write_csv, write_markdown
    from tokensweep_analysis.published.reader import read_published
    from tokensweep_analysis.published.render import render_audit, render_pairs

    options, store, _ = with_store(_parser(), arguments)
    names = _names(options.map, beside=options.beside)
    _check_outputs(options)
    cells = _of_papers(read_published(options.file), options.paper, options.file.name)
    audit = audit_cells(cells, pool=_pool(options.pool))
    parts = render_audit(audit, show_all=options.all)
    pairs: list[Pair] = []
    if options.beside:
        sweep = known_sweep(store, options.beside)
        pairs = lay_beside(cells, store, sweep, names=names)
        parts += render_pairs(pairs, sweep)
    frame = to_frame(audit, pairs)
    if options.csv:
        write_csv(frame, options.csv)
    if options.markdown:
        write_markdown(frame, options.markdown, title=options.file.name)
    console = Console(markup=False, emoji=False, highlight=False)  # a table may print [x] and :x: itself
    for part in parts:
        console.print(part)
    if options.strict and audit.slips:
        raise SystemExit(1)


def _parser() -> argparse.ArgumentParser:
    from tokensweep_analysis.published.reader import COLUMNS

    width = max(map(len, COLUMNS)) + 2
    columns = "\n".join(f"  {name:<{width}}{text}" for name, text in COLUMNS.items())
    parser = argparse.ArgumentParser(
        prog="tokensweep audit",
        description=f"{_DESCRIPTION}\n{_EXAMPLE.format(columns=columns)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE.csv", help="the published table")
    parser.add_argument("--paper", metavar="TEXT", help="only papers with TEXT in name or arxiv_id")
    parser.add_argument("--all", action="store_true", help="every note and every difference")
    parser.add_argument("--pool", metavar="A,B", help="also judge the mean difference over these benchmarks")
    parser.add_argument("--beside", metavar="SWEEP", help="lay the results of a sweep of the store beside it")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="ARM=VARIANT",
        help="with --beside: the printed variant, method or 'method, variant' that an arm stands for",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write everything as one table")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write everything as Markdown")
    parser.add_argument("--strict", action="store_true", help="exit 1 when there are slips")
    return parser


def _of_papers(cells: Sequence[Cell], text: str | None, file: str) -> list[Cell]:
    if text is None:
        return list(cells)
    if not text.strip():
        raise ValueError(f"--paper must be a part of a paper's name, got {text!r}: leave it out for all")
    found = [cell for cell in cells if text.lower() in cell.source.lower()]
    if not found:
        papers = ", ".join(dict.fromkeys(cell.source for cell in cells))
        raise ValueError(f"--paper must fit a paper of {file}, got {text!r}: papers are {papers}")
    return found


def _pool(text: str | None) -> list[str]:
    """The benchmarks of ``--pool``."""
    if text is None:
        return []
    names = [name.strip() for name in text.split(",")]
    if len(names) < _FEWEST_POOLED or not all(names):
        raise ValueError(f"--pool must name two or more benchmarks, as in AIME24,AIME25, got {text!r}")
    return names


def _names(texts: Sequence[str], *, beside: str | None) -> dict[str, str]:
    """The printed variant by arm, of every ``--map``."""
    if beside is not None and not beside:
        raise ValueError("--beside must name a sweep, got '': tokensweep status lists them")
    if texts and not beside:
        raise ValueError(f"--map must go with --beside SWEEP, got --map {texts[0]!r} alone: add it")
    names: dict[str, str] = {}
    for text in texts:
        arm, equals, variant = (part.strip() for part in text.partition("="))
        if not (arm and equals and variant):
            raise ValueError(f"--map must be ARM=VARIANT, got {text!r}: give both")
        if arm in names:
            raise ValueError(
                f"--map must name an arm once, got {arm!r} for {names[arm]!r} and {variant!r}: drop one"
            )
        names[arm] = variant
    return names


def _check_outputs(options: argparse.Namespace) -> None:
    """That ``--csv`` and ``--markdown`` are two files of folders that exist, and not the table itself."""
    taken = {options.file.resolve(): "FILE.csv"}
    for name, path in (("--csv", options.csv), ("--markdown", options.markdown)):
        if path is None:
            continue
        if path.is_dir():
            raise ValueError(f"{name} must be a file, got the folder {path}: name a file in it")
        if not path.parent.is_dir():
            raise ValueError(f"{name} must lie in a folder, got no folder {path.parent}: make it first")
        if path.resolve() in taken:
            raise ValueError(f"{name} must be a file of its own, got {path} for {taken[path.resolve()]} too")
        taken[path.resolve()] = name
