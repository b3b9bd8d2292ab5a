"""One self-contained HTML page per sweep: claims, contrasts, rankings, plots, and what is missing.

The page loads nothing from anywhere: its policy forbids it, styles and plots are inline. It is complete
without JavaScript, which only sorts tables.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from tokensweep.files import write_text
from tokensweep_analysis.claims import POOLED
from tokensweep_analysis.intervals import Estimand
from tokensweep_analysis.lacking import no_contrasts, nothing_finished
from tokensweep_analysis.metrics import AVERAGE, Metric
from tokensweep_analysis.page import plots, tables
from tokensweep_analysis.page.curves import Curve, read_curves
from tokensweep_analysis.page.effects import effects_part
from tokensweep_analysis.page.figures import Dot
from tokensweep_analysis.page.markup import Html, join, tag
from tokensweep_analysis.page.numbers import span
from tokensweep_analysis.page.plots import Drawing
from tokensweep_analysis.page.selection import drawn_arms
from tokensweep_analysis.search.page import parts as search_parts
from tokensweep_analysis.search.summary import Summary, summary_of
from tokensweep_analysis.sections import SHARE_OF_RIGHT, shown_metrics
from tokensweep_analysis.tables import Comparison, Row
from tokensweep_analysis.verdict_tables import HOW_TO_READ
from tokensweep_analysis.wording import percent

FILE_NAME = "report.html"
ONE_RUN = "one training run per arm: the claim is about two checkpoints"
_MAX_CONTRASTS = 600  # rows of a table; more hide what matters
_MAX_RANKED, _MIN_RANKED = 3000, 13  # rows of all ranking tables together, about 2 MB; rows of each
_Part = tuple[str, str, Html]  # id, heading, content


def write_page(comparison: Comparison, store: Path, folder: Path) -> Path:
    """Write ``report.html`` into ``folder`` in one step and return its path.

    Training curves are read from the runs in ``store``, of the arms that are drawn. When the sweep is a
    search, the page is about its trials. Raises ValueError when the sweep is not in the store or the trials
    of a search cannot be read, OSError naming the file that cannot be written.
    """
    search = summary_of(comparison, store / "sweeps" / comparison.name)
    shown = search.comparison if search else comparison
    curves = read_curves(store, comparison.name, arms=drawn_arms(shown))
    path = folder / FILE_NAME
    write_text(path, to_html(shown, curves, dots=_dots(shown), search=search))
    return path


def _dots(comparison: Comparison) -> list[Dot]:
    """A dot per run that counts."""
    return [
        Dot(
            setting=row.setting,
            arm=row.arm,
            benchmark=row.benchmark,
            seed=seed,
            accuracy=accuracy,
            length=length,
        )
        for row in comparison.rows
        for seed, (accuracy, length) in row.by_run.items()
    ]


def to_html(
    comparison: Comparison,
    curves: Sequence[Curve] = (),
    *,
    dots: Sequence[Dot] = (),
    search: Summary | None = None,
) -> str:
    """The page. The same comparison, curves and dots give the same text.

    With ``search`` it is about the trials of that, and ``comparison`` is of the best of them. Without
    ``dots`` the plot of length against accuracy has a dot per arm instead of one per run.
    """
    script = _file("sort.js")
    parts = list(_of_search(search, curves) if search else _parts(comparison, curves, dots))
    body = tag(
        "body",
        tag("a", "Skip to the results", class_="skip", href="#results"),
        _header(comparison),
        tag(
            "nav",
            tag("ul", *(tag("li", tag("a", h, href=f"#{key}")) for key, h, _ in parts)),
            aria_label="Contents",
        ),
        tag("main", *(_section(*part) for part in parts), id="results", tabindex=-1),
        tag("footer", "Written by tokensweep. The page loads nothing from the network."),
        tag("script", Html(script)),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{comparison.name}: comparison"),
        tag("style", Html(_file("style.css"))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _file(name: str) -> str:
    return resources.files("tokensweep_analysis.page").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Nothing from outside, and no script but the page's own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def _header(comparison: Comparison) -> Html:
    facts = [
        ("Paper", comparison.paper),
        ("Scale", comparison.scale),
        ("Baseline", comparison.baseline or ""),
    ]
    meta = " · ".join(f"{name}: {value}" for name, value in facts if value)
    warning = tag(
        "aside", tag("p", comparison.note), class_="warning", role="note", aria_label="Before you read"
    )
    return tag(
        "header",
        tag("h1", comparison.name),
        *([tag("p", comparison.question, class_="lead")] if comparison.question else []),
        *([tag("p", meta, class_="meta")] if meta else []),
        *([warning] if comparison.note else []),
    )


def _section(key: str, heading: str, content: Html) -> Html:
    return tag(
        "section", tag("h2", heading, id=f"{key}-heading"), content, id=key, aria_labelledby=f"{key}-heading"
    )


def _parts(comparison: Comparison, curves: Sequence[Curve], dots: Sequence[Dot]) -> Iterator[_Part]:
    drawing = Drawing.of(comparison)
    yield "read", "How to read this", _how_to_read(comparison)
    yield "claims", "Claims", _claims(comparison)
    if comparison.effects_note:
        yield "effects", "Main effects and interactions", effects_part(comparison)
    yield "contrasts", "Contrasts", _contrasts(drawing)
    yield "ranking", "Ranking", _rankings(drawing)
    yield "pass", "pass@k", plots.pass_plots(drawing)
    yield "gain", "pass@k against the baseline", plots.gain_plots(drawing)
    yield "forest", "Differences to the baseline", plots.forest_plots(drawing)
    yield "questions", "Questions", plots.heat_maps(drawing)
    yield "training", "Training", plots.training_plots(drawing, curves)
    yield "length", "Length against accuracy", plots.length_plots(drawing, dots)
    yield "missing", "Not in the tables", _missing(comparison)
    yield "provenance", "Provenance", _provenance(comparison, commands=_commands(comparison))


def _of_search(search: Summary, curves: Sequence[Curve]) -> Iterator[_Part]:
    """Trials instead of arms: without contrasts and claims, which the best of many cannot have."""
    drawing = Drawing.of(search.comparison)
    yield from search_parts(search)
    if drawing.sections:
        yield "ranking", "The best trials by benchmark", _rankings(drawing)
    yield "training", "Training of the best trials", plots.training_plots(drawing, curves)
    if search.comparison.troubles:
        yield "missing", "Complete trials whose runs are not in the tables", _missing(search.comparison)
    again = f"tokensweep report {search.comparison.name}"
    yield "provenance", "Provenance", _provenance(search.comparison, commands=again)


def _how_to_read(comparison: Comparison) -> Html:
    if nothing := nothing_finished(comparison.rows):
        return tag("p", nothing)
    differences = [e for row in comparison.rows for e in row.differences.values()]
    estimates = [*(e for row in comparison.rows for e in row.results.values()), *differences]
    used = [each for each in Estimand if any(e.estimand is each for e in estimates)]
    single = any(e.num_runs == 1 for e in estimates)
    sentences = [
        f"Numbers are points out of 100, with {percent(comparison.confidence)} intervals in brackets; "
        f"those of claims are adjusted and name their level. {AVERAGE} is {SHARE_OF_RIGHT}.",
        "Each interval says what it is about: the checkpoints at hand or the method that made them, the "
        "questions at hand or questions like these.",
    ]
    if differences:
        sentences += [
            "Differences are between the same questions, and between runs of the same seed where both arms "
            "have them.",
            "An interval around a difference that includes 0 does not show that two arms are equal; the "
            'column "detects" says how large a difference would have been found.',
        ]
    if single:
        sentences.append(f"Where an arm has a single run, {ONE_RUN}.")
    listed = [tag("li", tag("strong", each.name), str(each.value)[2:]) for each in used]
    return join([tag("p", " ".join(sentences)), *([tag("ul", *listed)] if listed else [])])


def _claims(comparison: Comparison) -> Html:
    if not comparison.judgements:
        return tag("p", "This sweep makes no claims, or none was judged.", class_="note")
    return join([tag("p", HOW_TO_READ, class_="note"), tables.claims_table(comparison.judgements)])


def _contrasts(drawing: Drawing) -> Html:
    """A table per setting; of the metrics the mean, the largest k and what claims name."""
    comparison = drawing.comparison
    if not comparison.contrasts:
        gaps = _gaps(drawing) or ["The sweep has no arms."]
        return join([tag("p", each, class_="note") for each in gaps])
    claimed = {each.claim.metric for each in comparison.judgements}
    passes = [
        m
        for m in shown_metrics(sorted({c.metric for c in comparison.contrasts}, key=_order))
        if m.kind is AVERAGE.kind
    ]
    kept = [c for c in comparison.contrasts if c.metric in passes or c.metric in claimed]
    if len(kept) > _MAX_CONTRASTS:
        kept = [c for c in kept if c.arm in drawing.looks and c.baseline in drawing.looks]
    kept.sort(key=lambda each: each.benchmark != POOLED)
    settings = list(dict.fromkeys(each.setting for each in kept))
    found = [
        tables.contrasts_table(
            [c for c in kept if c.setting == setting],
            key=f"contrasts-{place}",
            caption=f"{setting or 'Contrasts'}, differences in points",
            is_explained=place == len(settings) - 1,
        )
        for place, setting in enumerate(settings)
    ]
    omitted = len(comparison.contrasts) - len(kept)
    note = (
        "Bold: the interval, which is not adjusted, excludes 0. Holm p is adjusted over the arms that meet "
        "the same baseline on the same benchmark and metric. "
        + (f"{omitted:,} contrasts of other metrics and arms are in contrasts.csv only. " if omitted else "")
    )
    gaps = [tag("p", each, class_="note") for each in _gaps(drawing)]
    return join([tag("p", note.strip(), class_="note"), *found, *gaps])


def _gaps(drawing: Drawing) -> list[str]:
    """Why sections have no contrasts, those of one reason together, named where others have some."""
    sections: dict[str, list[str]] = {}
    for each in drawing.sections:
        nothing = nothing_finished(each.rows)
        if reason := nothing or no_contrasts(each.rows, baseline=drawing.comparison.baseline):
            sections.setdefault(reason, []).append(each.title)
    return [
        reason if len(titles) == len(drawing.sections) else f"{', '.join(titles)}: {reason}"
        for reason, titles in sections.items()
    ]


def _order(metric: Metric) -> tuple[str, float]:
    return metric.kind, metric.at


def _rankings(drawing: Drawing) -> Html:
    parts: list[Html] = []
    limit = max(_MIN_RANKED, _MAX_RANKED // max(len(drawing.sections), 1))
    for place, section in enumerate(drawing.sections):
        parts.append(
            tables.ranking_table(
                section,
                drawing.comparison,
                limit=limit,
                key=f"ranking-{place}",
                is_explained=place == len(drawing.sections) - 1,
            )
        )
        if len(section.rows) > limit:
            parts.append(
                tag("p", f"The best {limit} of {len(section.rows)}; ranking.csv has all.", class_="note")
            )
        parts += [tag("p", remark, class_="note") for remark in tables.remarks(section)]
    if not parts:
        return tag("p", "The sweep has no arms.", class_="note")
    note = f"Best {AVERAGE} first. Neighbours whose intervals overlap may well be equal."
    return join([tag("p", note, class_="note"), *parts])


def _missing(comparison: Comparison) -> Html:
    if not comparison.troubles:
        return tag("p", "Every planned run is in the tables.")
    return tables.troubles_table(comparison.troubles)


def _commands(comparison: Comparison) -> str:
    """What runs a sweep again and writes its report."""
    done = [row for row in comparison.rows if row.results]
    seeds = sorted({seed for row in done for seed in row.seeds})
    options = f" scale={comparison.scale}" if comparison.scale else ""
    options += f" seeds={','.join(map(str, seeds))}" if seeds else ""
    sweep = comparison.name.removesuffix(f"-{comparison.scale}") if comparison.scale else comparison.name
    return f"tokensweep sweep {sweep}{options}\ntokensweep report {comparison.name}"


def _provenance(comparison: Comparison, *, commands: str) -> Html:
    done = [row for row in comparison.rows if row.results]
    facts = [
        ("Sweep", comparison.name),
        *(_of_runs(comparison, done) if done else []),
        ("Confidence", percent(comparison.confidence)),
        ("Runs left out", f"{len(comparison.troubles):,}"),
    ]
    listed = [item for name, value in facts for item in (tag("dt", name), tag("dd", value))]
    return join([tag("dl", *listed), tag("h3", "To reproduce"), tag("pre", tag("code", commands))])


def _of_runs(comparison: Comparison, done: Sequence[Row]) -> list[tuple[str, str]]:
    """What the rows with numbers were made of."""
    seeds = sorted({seed for row in done for seed in row.seeds})
    return [
        ("Code", " ".join(comparison.code) or "unknown"),
        ("Seeds", " ".join(map(str, seeds))),
        ("Questions", span([row.num_questions for row in done])),
        ("Samples per question", span([row.num_samples for row in done])),
    ]
