"""The audit of a published table: what was checked, what does not add up, what its differences support."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tokensweep_analysis.published.averages import check_averages
from tokensweep_analysis.published.contradictions import check_baselines, check_contradictions
from tokensweep_analysis.published.finding import Checked, Finding, Rule, in_order
from tokensweep_analysis.published.grid import check_grid
from tokensweep_analysis.published.reader import Cell
from tokensweep_analysis.published.support import Support, supports

CHECKS = {
    Rule.average: check_averages,
    Rule.contradiction: check_contradictions,
    Rule.baseline: check_baselines,
    Rule.grid: check_grid,
}


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All that there is to say about a table of published results."""

    cells: tuple[Cell, ...]
    checked: dict[Rule, Checked]
    supports: tuple[Support, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Its papers, in the order of the file."""
        return tuple(dict.fromkeys(cell.source for cell in self.cells))

    @property
    def slips(self) -> tuple[Finding, ...]:
        """What cannot be right."""
        return tuple(each for each in self._findings() if each.is_slip)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What may be right and needs to be known."""
        return tuple(each for each in self._findings() if not each.is_slip)

    @property
    def unknown_sizes(self) -> tuple[tuple[str, int], ...]:
        """Benchmarks whose number of questions nobody here knows, with their rows."""
        cells = (cell for cell in self.cells if not cell.benchmark.sizes and not cell.benchmark.is_mean)
        return in_order(dict(Counter(cell.benchmark_text for cell in cells)))

    def _findings(self) -> list[Finding]:
        order = {source: place for place, source in enumerate(self.sources)}
        found = [finding for checked in self.checked.values() for finding in checked.findings]
        return sorted(found, key=lambda each: order[each.source])


def audit_cells(cells: Sequence[Cell], *, pool: Sequence[str] = ()) -> Audit:
    """The audit of what :func:`reader.read_published` gives; ``pool`` as in :func:`support.supports`."""
    return Audit(
        cells=tuple(cells),
        checked={rule: check(cells) for rule, check in CHECKS.items()},
        supports=tuple(supports(cells, pool=pool)),
    )
