"""One HTML page without anything from elsewhere: chains of thought coloured by entropy, tables and plots.

It has no script. Every text of a model or of a problem is escaped, and the page forbids itself to load or to
run anything. Kept tokens are bold and underlined, so that they can be told without colours.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise

import numpy as np
import pandas as pd

from tokensweep_analysis.tokens.columns import OVERLAP_COLUMNS, PERCENTILE_COLUMNS, TOKEN_COLUMNS, Spec, cells
from tokensweep_analysis.tokens.examples import Example
from tokensweep_analysis.tokens.findings import Findings
from tokensweep_analysis.tokens.plots import Plot
from tokensweep_analysis.tokens.shown import in_text

# Upper ends of the classes of entropy in nats. 0.01: half of the paper's tokens are below; 0.672: 80 % are.
_EDGES = (0.01, 0.1, 0.3, 0.672, 1.2)
_TOKENS_SHOWN = 40
_ROWS_SHOWN = 60

_STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; max-width: 62rem;
  margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #ccc }
th:first-child, td:first-child { text-align: left }
caption { text-align: left; font-weight: 600; padding: .3rem 0 }
.wide { overflow-x: auto } .wide:focus, summary:focus-visible { outline: 3px solid #0b3d91 }
figure { margin: 1rem 0 } img { max-width: 100%; height: auto }
summary { cursor: pointer; padding: .3rem 0; font-weight: 600 }
.cot { white-space: pre-wrap; overflow-wrap: anywhere; font: 15px/1.9 ui-monospace, monospace;
  border: 1px solid #ccc; padding: .6rem }
.cot span, .cot b, .legend span, .legend b { unicode-bidi: isolate; padding: .1rem 0 }
.prompt { white-space: pre-wrap; overflow-wrap: anywhere; font-family: ui-monospace, monospace;
  color: #444; margin: 0 }
b.k { font-weight: 700; border-bottom: 3px solid #0b3d91 }
.e1 { background: #fff1dc } .e2 { background: #fddcb2 } .e3 { background: #fcc07a }
.e4 { background: #f8a04a } .e5 { background: #ee7f2f }
.e0, .e1, .e2, .e3, .e4, .e5 { print-color-adjust: exact; -webkit-print-color-adjust: exact }
@media print {
  details::details-content { content-visibility: visible; height: auto }
  .wide { overflow: visible }
}
"""


def page(findings: Findings, *, plots: Sequence[Plot], examples: Sequence[Example]) -> str:
    """The whole page as text."""
    subject = findings.subject
    title = f"Tokens of run {subject.run_id}"
    parts = [
        f"<main><h1>{escape(title)}</h1>",
        f"<p>Method {escape(subject.method)}, model {escape(subject.model)}, temperature "
        f"{subject.temperature:g}; {len(findings.tokens):,} stored completion tokens. Of high entropy: "
        f"{escape(str(findings.rule))}. {escape(findings.kept_means.capitalize())}.</p>",
        *(f"<p><strong>Note:</strong> {escape(note)}.</p>" for note in subject.notes),
        *_examples(findings, examples),
        "<h2>Entropy</h2>",
        _table("Percentiles of entropy in nats, by step", findings.tables["percentiles"], PERCENTILE_COLUMNS),
        *_tokens(findings.tables["top_tokens"]),
        *_base(findings),
        "<h2>Plots</h2>",
        *(_figure(plot) for plot in plots),
        "</main>",
    ]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
    )
    return head + "\n".join(parts) + "\n</body></html>\n"


def _examples(findings: Findings, examples: Sequence[Example]) -> Iterator[str]:
    rollouts = findings.tokens.groupby(["step", "group", "sample"]).ngroups
    yield "<h2>Chains of thought</h2>"
    yield (
        f'<p class="legend">Entropy in nats: {_legend()}. '
        '<b class="k">Kept tokens</b> are bold and underlined.</p>'
    )
    yield (
        f"<p>{len(examples)} of {rollouts:,} stored rollouts, of the last and the first stored step: those "
        "with most kept tokens, correct and other ones in turn. tokens.parquet has all of them.</p>"
    )
    for number, example in enumerate(examples):
        yield _example(example, is_open=number == 0)


def _legend() -> str:
    names = [f"below {_EDGES[0]:g}"]
    names += [f"{low:g} to {high:g}" for low, high in pairwise(_EDGES)]
    names.append(f"from {_EDGES[-1]:g}")
    return " ".join(f'<span class="e{i}">&nbsp;{name}&nbsp;</span>' for i, name in enumerate(names))


def _example(example: Example, *, is_open: bool) -> str:
    tokens = example.tokens
    kept = int(tokens["kept"].sum())
    rest = f"<p>{example.omitted:,} more tokens are in tokens.parquet.</p>" if example.omitted else ""
    title = (
        f"step {example.step}, {example.grade.replace('_', ' ')}, problem {example.problem_id}: "
        f"{len(tokens):,} tokens, {kept:,} kept, {tokens['entropy'].mean():.3f} nats on average"
    )
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>"
        f'<p class="prompt">{escape(in_text(example.prompt))}</p>'
        f'<div class="cot">{"".join(_spans(tokens))}</div>{rest}</details>'
    )


def _spans(tokens: pd.DataFrame) -> Iterator[str]:
    levels = np.searchsorted(_EDGES, tokens["entropy"].to_numpy(), side="right")
    columns = (tokens[name].tolist() for name in ("token", "entropy", "base_entropy", "kept"))
    for level, token, entropy, base, kept in zip(levels.tolist(), *columns, strict=True):
        text = escape(in_text(str(token))).replace("\n", "↵\n")
        against = "" if np.isnan(base) else f", base {base:.2f}"
        tag, mark = ("b", " k") if kept else ("span", "")
        yield f'<{tag} class="e{level}{mark}" title="{entropy:.2f}{against}">{text}</{tag}>'


def _tokens(found: pd.DataFrame) -> Iterator[str]:
    yield "<h2>Tokens</h2>"
    yield _table("Most often of high entropy", found.head(_TOKENS_SHOWN), TOKEN_COLUMNS)
    by_mean = found.sort_values(["mean_entropy", "token_id"], ascending=[False, True])
    yield _table("Highest mean entropy", by_mean.head(_TOKENS_SHOWN), TOKEN_COLUMNS)


def _base(findings: Findings) -> Iterator[str]:
    for suffix, where in (("", "each step's own rollouts"), ("_on_last", "the rollouts of the last step")):
        if f"overlap{suffix}" in findings.tables:
            yield f"<h2>The base model, on {where}</h2>"
            yield (
                "<p>Overlap: share of the tokens of high entropy that are so for the base model, too. "
                "Intervals: bootstrap over prompts. The paper compares on rollouts of the converged "
                "model.</p>"
            )
            yield _table("Overlap by step", findings.tables[f"overlap{suffix}"], OVERLAP_COLUMNS)


def _table(caption: str, frame: pd.DataFrame, columns: Sequence[Spec]) -> str:
    cut = f" (first {_ROWS_SHOWN} of {len(frame)} rows)" if len(frame) > _ROWS_SHOWN else ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name, _ in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in cells(frame.head(_ROWS_SHOWN), columns)
    )
    label = escape(caption + cut)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table><caption>{label}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _figure(plot: Plot) -> str:
    data = b64encode(plot.svg.encode()).decode()
    return (
        f'<figure><figcaption>{escape(plot.title)}</figcaption><img alt="{escape(plot.alt)}" '
        f'src="data:image/svg+xml;base64,{data}"></figure>'
    )
