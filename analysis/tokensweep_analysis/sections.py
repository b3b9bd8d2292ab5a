"""A comparison as tables of text, a section per setting and benchmark. For the terminal and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from tokensweep_analysis.claims import POOLED
from tokensweep_analysis.contrasts import Contrast
from tokensweep_analysis.intervals import NO_SPREAD, Estimate
from tokensweep_analysis.lacking import no_contrasts, nothing_finished
from tokensweep_analysis.layout import Cell, Column
from tokensweep_analysis.metrics import AVERAGE, CERTAINTY, Kind, Metric
from tokensweep_analysis.passk import guess_floor
from tokensweep_analysis.tables import Comparison, Row
from tokensweep_analysis.wording import NOTHING, counted, detected, percent

SHARE_OF_RIGHT = "the share of right samples, which equals pass@1"
_NO_INTERVAL = "[none]"


@dataclass(frozen=True, kw_only=True)
class Section:
    """One setting and benchmark, as text. The first column of each table holds the arms."""

    title: str
    results: tuple[Column, ...]
    contrasts: tuple[tuple[Column, ...], ...]  # a table per metric
    effects: tuple[tuple[Column, ...], ...]  # of a factorial sweep, a table per metric
    reliability: tuple[Column, ...]
    certainty: tuple[Column, ...]  # where samples state a confidence
    costs: tuple[Column, ...]
    facts: tuple[str, ...]  # sentences on what its numbers are
    is_empty: bool = False  # no run has finished

    @property
    def tables(self) -> list[tuple[Column, ...]]:
        """Those that hold more than the names of the arms."""
        tables = (
            self.results,
            *self.effects,
            *self.contrasts,
            self.reliability,
            self.certainty,
            self.costs,
        )
        return [table for table in tables if len(table) > 1]

    def own_facts(self, sections: Sequence[Section]) -> list[str]:
        """Those that do not hold for all of ``sections``."""
        shared = shared_facts(sections)
        return [fact for fact in self.facts if fact not in shared]


def shared_facts(sections: Sequence[Section]) -> list[str]:
    """Sentences that hold for every section that has numbers: said once."""
    told = [section for section in sections if not section.is_empty] or sections
    first = told[0].facts if told else ()
    return [fact for fact in first if all(fact in section.facts for section in told)]


def sections_of(comparison: Comparison, *, compact: bool = False) -> Iterator[Section]:
    """The sections of a comparison; ``compact`` leaves out reliability, and all but the first differences."""
    for (setting, benchmark), group in groupby(comparison.rows, key=lambda row: (row.setting, row.benchmark)):
        rows = list(group)
        known = [each for each in comparison.metrics if any(each in row.results for row in rows)]
        shown = shown_metrics(known)
        passes = [each for each in shown if each.kind is Kind.pass_at]
        compared = [each for each in passes if any(each in row.differences for row in rows)]
        compared = compared[:1] if compact else compared
        costs = [column(name, [cell(row) for row in rows]) for name, cell in _costs(compact=compact)]
        arms = column("arm", [row.arm for row in rows])
        results = (arms, *_results(comparison, rows, passes, compared if compact else (), compact=compact))
        others = [] if compact else [each for each in shown if each not in passes]
        sure = [each for each in others if each.kind in CERTAINTY]
        reliability = (arms, *(_metric_column(each, rows) for each in others if each not in sure))
        certainty = (arms, *_certainty(sure, rows))
        yield Section(
            title=_title(comparison, setting, benchmark),
            results=results,
            contrasts=() if compact else tuple(_contrasts(comparison, rows, metric) for metric in compared),
            effects=tuple(_effects(comparison, rows, passes))[: 1 if compact else None],
            reliability=reliability,
            certainty=certainty,
            costs=(arms, *(c for c in costs if any(str(cell) != NOTHING for cell in c.cells))),
            facts=(
                *_facts(comparison, rows, passes),
                *_explained([each for each in shown if each == AVERAGE] if compact else shown),
                *_missing((*results, *reliability, *certainty)),
                *([comparison.effects_note] if comparison.effects_note else []),
            ),
            is_empty=bool(nothing_finished(rows)),
        )


def _title(comparison: Comparison, setting: str, benchmark: str) -> str:
    title = benchmark
    if benchmark == POOLED:
        others = dict.fromkeys(
            r.benchmark for r in comparison.rows if r.setting == setting != POOLED != r.benchmark
        )
        title = f"{POOLED} over {', '.join(others)}, each weighing the same"
    return title if setting in ("", benchmark) else f"{setting}: {title}"


def shown_metrics(metrics: Sequence[Metric]) -> list[Metric]:
    """Of pass@k the smallest and the largest k, of maj@k and pass^k the largest, of cover@tau all."""
    shown: list[Metric] = []
    for kind, group in groupby(metrics, key=lambda metric: metric.kind):
        own = list(group)
        kept = {Kind.pass_at: [own[0], own[-1]], Kind.cover_at: own}.get(kind, own[-1:])
        shown += dict.fromkeys(kept)
    return shown


def _metric_column(metric: Metric, rows: Sequence[Row], *interval: str) -> Column:
    """A metric with its interval."""
    cells = tuple(estimated(row.results.get(metric)) for row in rows)
    return Column(Cell((*str(metric).split(" ", 1), *interval)), cells)


def _certainty(metrics: Sequence[Metric], rows: Sequence[Row]) -> Iterator[Column]:
    """How many samples state a confidence, and what those are worth; nothing where too few do."""
    if not metrics:
        return
    yield column("stated %", [share(row.stated_fraction) for row in rows])
    for metric in metrics:
        yield _metric_column(metric, rows)
        if metric.kind is Kind.ece:
            yield column("ECE floor", [share(row.ece_floor) for row in rows])


def _results(
    comparison: Comparison,
    rows: Sequence[Row],
    passes: Sequence[Metric],
    compared: Sequence[Metric],
    *,
    compact: bool,
) -> Iterator[Column]:
    """How many runs count, pass@k, and the differences to the baseline."""
    interval = (f"[{percent(comparison.confidence)}]",) if compact else ()
    yield Column(Cell(("runs",)), tuple(_runs(row) for row in rows))
    for metric in passes:
        yield _metric_column(metric, rows, *interval)
    for metric in compared:
        header = Cell((str(metric), f"vs {comparison.baseline}", *interval))
        yield Column(header, tuple(_difference(row.differences.get(metric)) for row in rows))


def column(header: str, cells: Iterable[str]) -> Column:
    """A column whose header may be broken at its first space."""
    return Column(Cell(tuple(header.split(" ", 1))), tuple(Cell((cell,)) for cell in cells))


def _runs(row: Row) -> Cell:
    """Runs that count of those planned, and how many failed if any did."""
    done = f"{len(row.seeds)}/{row.num_planned}"
    return Cell((f"{done},", f"{row.num_failed} failed") if row.num_failed else (done,))


def _difference(estimate: Estimate | None) -> Cell:
    """Strong when its interval excludes 0."""
    strong = estimate is not None and (estimate.low > 0 or estimate.high < 0)
    return Cell(estimated(estimate, sign="+").parts, strong=strong)


def estimated(estimate: Estimate | None, *, sign: str = "") -> Cell:
    """Points out of 100 and the interval in brackets."""
    if estimate is None:
        return Cell((NOTHING,))
    value = f"{100 * estimate.value:{sign}.1f}"
    if estimate.low != estimate.low:  # NaN: the data give no interval
        return Cell((value, _NO_INTERVAL))
    return Cell((value, f"[{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"))


def _contrasts(comparison: Comparison, rows: Sequence[Row], metric: Metric) -> tuple[Column, ...]:
    """The arms against the baseline on one metric, with what a reader needs to trust a difference."""
    place = (rows[0].setting, rows[0].benchmark)
    own = [c for c in comparison.contrasts if (c.setting, c.benchmark) == place and c.metric == metric]
    header = Cell((str(metric), f"vs {comparison.baseline}"))
    return (column("arm", [each.arm for each in own]), *_estimated(own, header))


def _effects(
    comparison: Comparison, rows: Sequence[Row], metrics: Sequence[Metric]
) -> Iterator[tuple[Column, ...]]:
    """A table of main effects and interactions per metric."""
    place = (rows[0].setting, rows[0].benchmark)
    for metric in metrics:
        own = [c for c in comparison.effects if (c.setting, c.benchmark) == place and c.metric == metric]
        if own:
            yield (column("effect", [each.arm for each in own]), *_estimated(own, Cell((str(metric),))))


def _estimated(own: Sequence[Contrast], header: Cell) -> tuple[Column, ...]:
    """Differences, and what a reader needs to trust them."""
    return (
        Column(header, tuple(_difference(each.estimate) for each in own)),
        column("df", [number(each.estimate.df, "{:.1f}") for each in own]),
        column("p", [p_value(each.p_value) for each in own]),
        column("Holm p", [p_value(each.p_holm) for each in own]),
        column("detects", [detected(each.detectable) for each in own]),
    )


def p_value(value: float | None) -> str:
    """Three decimals, or that it is smaller."""
    return "<0.001" if value is not None and value < 0.001 else number(value, "{:.3f}")


def number(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return NOTHING if value is None or value != value else form.format(value)


def share(value: float | None, *, sign: str = "") -> str:
    """Points out of 100, or a dash where there is none."""
    return number(None if value is None else 100 * value, f"{{:{sign}.1f}}")


_Cost = tuple[str, Callable[[Row], str]]
_KEPT: tuple[_Cost, ...] = (
    ("tokens kept %", lambda row: share(row.kept_fraction)),
    ("entropy kept %", lambda row: share(row.entropy_kept_fraction)),
)
_EVALUATED: tuple[_Cost, ...] = (
    ("truncated %", lambda row: share(row.truncated_fraction)),
    ("no answer %", lambda row: share(row.no_answer_fraction)),
    ("length", lambda row: number(row.length_mean, "{:.1f}")),
    ("tokens generated", lambda row: number(row.generated_tokens, "{:,.0f}")),
)
_TIME: tuple[_Cost, ...] = (("seconds", lambda row: number(row.seconds, "{:.0f}")),)
_DEVICES: tuple[_Cost, ...] = (("device hours", lambda row: number(row.device_hours, "{:.2f}")),)


def _costs(*, compact: bool) -> tuple[_Cost, ...]:
    return (*_KEPT, *_TIME) if compact else (*_KEPT, *_EVALUATED, *_TIME, *_DEVICES)


def _facts(comparison: Comparison, rows: Sequence[Row], passes: Sequence[Metric]) -> Iterator[str]:
    """What the numbers of a table are, and what they are not, a sentence each."""
    if nothing := nothing_finished(rows):
        yield nothing
        return
    done = [row for row in rows if row.results]
    if done:
        yield from _figures(comparison, done)
    yield from _floor_facts(rows, passes)
    if any(row.differences for row in done):
        yield (
            f"Differences are to {comparison.baseline}, paired by question, and by seed where seeds agree; "
            "their intervals are not adjusted for the number of comparisons, Holm p is, over a table's arms. "
            "Detects is the smallest true difference that such runs find in 80 of 100 repetitions, at the 5 "
            "% level before any adjustment."
        )
    if reason := no_contrasts(rows, baseline=comparison.baseline):
        yield reason
    yield "Tokens and seconds are per run, rates are of the evaluation."
    for caution in dict.fromkeys(row.caution for row in rows if row.caution):
        yield f"Contamination: {caution}."
    for remark in dict.fromkeys(row.remark for row in rows if row.remark):
        yield f"{', '.join(row.arm for row in rows if row.remark == remark)}: {remark}."


def _figures(comparison: Comparison, done: Sequence[Row]) -> Iterator[str]:
    """What the numbers of rows that have some are about, and what was run for them."""
    estimates = [each for row in done for each in (*row.results.values(), *row.differences.values())]
    estimands = sorted({each.estimand.value for each in estimates})
    several = any(each.num_runs > 1 for each in estimates)
    yield (
        f"Points out of 100 with {percent(comparison.confidence)} intervals over "
        f"{'questions and training seeds' if several else 'questions'}, estimand {'; '.join(estimands)}."
    )
    yield run_facts(comparison, done)


def run_facts(comparison: Comparison, done: Sequence[Row]) -> str:
    """What was run for rows that have numbers: scale, seeds, questions, samples, code."""
    return (
        f"Run at scale {comparison.scale or 'not named'}, "
        f"seeds {' '.join(map(str, sorted({seed for row in done for seed in row.seeds})))}, "
        f"{_span((row.num_questions for row in done), 'question')}, "
        f"{_span((row.num_samples for row in done), 'sample')} of each, "
        f"code {' '.join(comparison.code) or 'unknown'}."
    )


def _missing(columns: Iterable[Column]) -> Iterator[str]:
    """Why a cell has no interval, if one has none."""
    if any(_NO_INTERVAL in cell.parts for column in columns for cell in column.cells):
        yield f"{NO_SPREAD.capitalize()}."


def _explained(shown: Sequence[Metric]) -> Iterator[str]:
    """One sentence on what each kind of metric is."""
    if AVERAGE in shown:
        yield f"{AVERAGE} is {SHARE_OF_RIGHT}."
    for kind, metric in {metric.kind: metric for metric in shown if metric != AVERAGE}.items():
        yield {
            Kind.pass_at: f"{metric} is the chance that at least one of {metric.at:g} samples is right.",
            Kind.maj_at: f"{metric} is the chance that the most frequent answer of {metric.at:g} samples is "
            "right, with ties split and without the samples that give no answer.",
            Kind.pass_hat: f"{metric} is the chance that all of {metric.at:g} samples are right.",
            Kind.cover_at: "cover@tau is the share of questions with at least the share tau of their samples "
            "right, a figure that is biased where samples are few.",
            Kind.weighted_maj_at: f"{metric} is as maj@{metric.at:g}, each answer weighing what its "
            "confidence says.",
            Kind.ece: "ECE is the mean distance between confidence and accuracy in ten bins of the "
            "confidence; a sample that states none is sure of its answer. ECE floor is what a calibrated "
            "model with these confidences has by chance: an ECE near it may be 0, whatever its interval.",
            Kind.brier: "Brier is the mean of (confidence - right)^2.",
            Kind.nll: "NLL is in hundredths of a nat, with confidences held between 0.005 and 0.995.",
            Kind.auroc: "AUROC is the chance that a right sample is surer than a wrong one, 50 by guessing.",
            Kind.overconfident_errors: "Overconfident errors are the share of wrong samples with a "
            "confidence above 0.7.",
            Kind.selective_accuracy: "Selective accuracy is that of the surer half of the samples.",
        }[kind]


def _floor_facts(rows: Sequence[Row], passes: Sequence[Metric]) -> Iterator[str]:
    """What guessing would reach, where the number of possible answers is known."""
    sizes = sorted({row.answer_space for row in rows if row.answer_space})
    for size in sizes:
        floors = " and ".join(f"{each} {100 * guess_floor(size, int(each.at)):.1f}" for each in passes)
        yield f"Blind guessing among {size:,} answers would reach {floors}."


def _span(counts: Iterable[int], noun: str) -> str:
    """``1 question``, ``30 questions``, ``30 to 40 questions``."""
    *fewer, most = sorted(set(counts))
    return f"{fewer[0]} to {counted(most, noun)}" if fewer else counted(most, noun)
