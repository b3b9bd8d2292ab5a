"""An audit as files: one CSV row per finding, difference and pair, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tokensweep.files import replacing, write_text
from tokensweep_analysis.published.audit import Audit
from tokensweep_analysis.published.beside import Pair
from tokensweep_analysis.published.finding import one_decimal
from tokensweep_analysis.published.support import ONE_RUN

_COLUMNS = {
    "slip": ("rule", "lines", "where", "printed", "expected", "text"),
    "note": ("rule", "lines", "where", "printed", "expected", "text"),
    "difference": (
        "lines",
        "where",
        "difference",
        "low",
        "high",
        "detectable",
        "training_runs",
        "verdict",
        "text",
    ),
    "pair": ("lines", "where", "printed", "own", "low", "high", "verdict", "text"),
}
_TITLES = {
    "slip": "Slips",
    "note": "Possible, but to know",
    "difference": "What printed differences support",
    "pair": "Own results beside the printed ones",
}


def to_frame(audit: Audit, pairs: Sequence[Pair] = ()) -> pd.DataFrame:
    """All findings as a flat table; ``kind`` is slip, note, difference or pair, numbers are in points."""
    records = [*_finding_records(audit), *_difference_records(audit), *_pair_records(pairs)]
    names = ["kind", "paper", *dict.fromkeys(name for columns in _COLUMNS.values() for name in columns)]
    return pd.DataFrame(records, columns=names).astype({"training_runs": "Int64"})


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """The table of :func:`to_frame` in one step."""
    with replacing(path) as partial:
        frame.to_csv(partial, index=False, float_format="%.4g")


def write_markdown(frame: pd.DataFrame, path: Path, *, title: str) -> None:
    """The table of :func:`to_frame` as GitHub-flavoured Markdown, a section per kind and paper."""
    lines = [f"# Audit of {title}", ""]
    for kind, columns in _COLUMNS.items():
        part = frame[frame["kind"] == kind]
        if part.empty:
            continue
        lines += [f"## {_TITLES[kind]}", ""]
        lines += [ONE_RUN, ""] if kind == "difference" else []
        for paper, own in part.groupby("paper", sort=False):
            lines += [
                f"### {_escaped(str(paper))}",
                "",
                f"| {' | '.join(columns)} |",
                "|" + "---|" * len(columns),
            ]
            lines += [
                f"| {' | '.join(_written(row[name]) for name in columns)} |" for _, row in own.iterrows()
            ]
            lines.append("")
    write_text(path, "\n".join(lines))


def _finding_records(audit: Audit) -> list[dict[str, Any]]:
    return [
        {
            "kind": "slip" if each.is_slip else "note",
            "paper": each.source,
            "rule": str(each.rule),
            "lines": " ".join(map(str, each.lines)),
            "where": each.where,
            "printed": each.printed,
            "expected": each.expected,
            "text": each.text,
        }
        for each in (*audit.slips, *audit.notes)
    ]


def _difference_records(audit: Audit) -> list[dict[str, Any]]:
    return [
        {
            "kind": "difference",
            "paper": each.source,
            "lines": str(each.line),
            "where": f"{each.base_model}, {each.arm}: {each.benchmark} {each.metric}",
            "difference": each.difference,
            "low": each.low,
            "high": each.high,
            "detectable": each.detectable,
            "training_runs": each.num_seeds,
            "verdict": str(each.verdict),
            "text": each.remark,
        }
        for each in audit.supports
    ]


def _pair_records(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [
        {
            "kind": "pair",
            "paper": pair.cell.source,
            "lines": str(pair.cell.line),
            "where": f"{pair.setting}, {pair.arm}: {pair.cell.benchmark_text} {pair.cell.metric}",
            "printed": pair.cell.value.text,
            "own": 100 * pair.own.value if pair.own else None,
            "low": 100 * pair.own.low if pair.own else None,
            "high": 100 * pair.own.high if pair.own else None,
            "verdict": "comparable" if pair.is_comparable else "not comparable",
            "text": "; ".join(map(str, pair.reasons)),
        }
        for pair in pairs
    ]


def _written(value: object) -> str:
    if value is None or value is pd.NA or value != value:
        return ""
    return _escaped(one_decimal(value) if isinstance(value, float) else str(value))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
