"""The findings as files in a folder; each is whole or absent, and what is no longer found is removed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tokensweep.files import replacing, write_text
from tokensweep_analysis.tokens.examples import Example
from tokensweep_analysis.tokens.findings import Findings
from tokensweep_analysis.tokens.page import page
from tokensweep_analysis.tokens.plots import Plot, plots


def write_findings(folder: Path, findings: Findings, *, examples: Sequence[Example]) -> list[Path]:
    """Write ``tokens.parquet``, a CSV per table, an SVG per plot and ``page.html``; gives back their paths.

    In CSV files a token is a JSON string: white space stays visible, and no spreadsheet takes it for a
    formula. Raises OSError naming the file where there is no space.
    """
    drawn: list[Plot] = list(plots(findings))
    written = [folder / "tokens.parquet", folder / "page.html"]
    with replacing(written[0]) as partial:
        table = pa.Table.from_pandas(findings.tokens, preserve_index=False)
        pq.write_table(table, partial, compression="zstd")
    write_text(written[1], page(findings, plots=drawn, examples=examples))
    for name, frame in findings.tables.items():
        written.append(folder / f"{name}.csv")
        write_text(written[-1], _quoted(frame).to_csv(index=False, float_format="%.6g"))
    for plot in drawn:
        written.append(folder / "plots" / f"{plot.name}.svg")
        write_text(written[-1], plot.svg)
    for path in [*folder.glob("*.csv"), *folder.glob("plots/*.svg")]:
        if path not in written:
            path.unlink()
    return sorted(written)


def _quoted(frame: pd.DataFrame) -> pd.DataFrame:
    if "token" not in frame:
        return frame
    return frame.assign(token=[json.dumps(token, ensure_ascii=False) for token in frame["token"]])
