"""Tables as a report leaves them in a sweep's folder, for tests of what is shown of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RANKING = (
    "setting benchmark arm metric value low high standard_error df estimand runs planned failed questions "
    "samples"
)
CONTRASTS = (
    "setting benchmark arm baseline metric difference low high standard_error df p p_holm detectable "
    "estimand remark"
)
CLAIMS = (
    "id setting verdict grade kind contrast metric difference low high level low_reproduce "
    "high_reproduce level_reproduce low_refute high_refute level_refute holm_over p p_holm detectable "
    "claimed margin smallest_effect rule reason source own model data"
)


def write_table(path: Path, header: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file with the columns of ``header``; what a row lacks is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header.split())
        writer.writeheader()
        writer.writerows(rows)


def mean_row(arm: str, metric: str, value: float, **changes: Any) -> dict[str, Any]:
    """A row of ranking.csv: two runs of an arm on ``ops``."""
    row = {"setting": "ops", "benchmark": "ops", "arm": arm, "metric": metric, "value": value}
    return {**row, "estimand": "E4", "runs": 2, "planned": 3, **changes}


def contrast_row(arm: str, metric: str, difference: float, **changes: Any) -> dict[str, Any]:
    """A row of contrasts.csv against the baseline ``all``."""
    row = {"setting": "ops", "benchmark": "ops", "arm": arm, "baseline": "all", "metric": metric}
    return {**row, "difference": difference, **changes}


def write_report_files(report: Path) -> None:
    """The files of a report on the sweep ``demo``, as far as this project's pages show them."""
    report.mkdir(parents=True, exist_ok=True)
    means = []
    for benchmark in ("ops", "pooled"):
        means += [
            mean_row("all", "pass_at_1", 0.5, low=0.25, high=0.75, benchmark=benchmark),
            mean_row("top", "pass_at_1", 0.625, low=0.5, high=0.75, benchmark=benchmark),
            mean_row("all", "pass_at_4", 0.75, benchmark=benchmark),
            mean_row("top", "pass_at_4", 1.0, benchmark=benchmark),
        ]
    means.append(mean_row("all", "pass_at_3", 0.7))  # nobody asked for k = 3
    write_table(report / "ranking.csv", RANKING, means)
    ends = {"low": -0.125, "high": 0.375, "p": 0.25, "p_holm": 0.5}
    contrasts = [contrast_row("top", "pass_at_1", 0.125, benchmark=b, **ends) for b in ("ops", "pooled")]
    write_table(report / "contrasts.csv", CONTRASTS, contrasts)
    claim = {"id": "top_not_worse", "setting": "ops", "verdict": "inconclusive", "reason": "2 runs | of 3"}
    write_table(report / "claims.csv", CLAIMS, [claim])
    (report / "report.md").write_text("# demo\n\nQuestion: Do few tokens carry the signal?\n")
    (report / "report.html").write_text(
        "<!doctype html><html lang='en'><head><title>demo</title></head>"
        "<body><h1>demo</h1><p id='proof'></p>"
        "<script>document.getElementById('proof').textContent = 'the page is ' + 'alive'</script>"
        "</body></html>"
    )
