"""Put the tables of methods into docs/methods.md (a line per preset) and README.md (a line per paper).

    python -m benchmarks.method_table [--check]

The status of a preset is what docs/zoo.md, the table of the sweep ``zoo``, has of it: how many training seeds
at scale tiny; else ``tested``, which every preset is: laws, its paper's properties by hand, two steps of
training. ``--check`` writes nothing and exits with status 1 where a document is not what would be written.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.markers import generated, insert
from tokensweep.compose import register_components
from tokensweep.describe import code_of, linked, markdown_table
from tokensweep.presets import Preset, presets
from tokensweep.sweepfile import find_sweep
from tokensweep.sweepshape import read_sweep_file
from tokensweep_analysis.wording import counted

_ROOT = Path(__file__).resolve().parent.parent
_RUNS = re.compile(r"^\| (\w+) \| (\d+)/\d+ \|", re.MULTILINE)  # arm and finished runs in a row of a table


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description="Put the tables of methods into docs/methods.md and README.md."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit with 1 where something changed"
    )
    options = parser.parse_args(arguments)
    stale = [path for path, content in tables().items() if generated(path, "methods") != content]
    if options.check and stale:
        print(f"stale: {', '.join(str(path) for path in stale)}: python -m benchmarks.method_table")
        raise SystemExit(1)
    if not options.check:
        for path, content in tables().items():
            insert(path, "methods", content)


def tables() -> dict[Path, str]:
    """What belongs between the markers of each document."""
    register_components()
    known = list(presets().values())
    status = statuses(known, _ROOT / "docs" / "zoo.md")
    return {
        _ROOT / "docs" / "methods.md": markdown_table(known, status),
        _ROOT / "README.md": papers_table(known, status),
    }


def statuses(known: Sequence[Preset], results: Path) -> dict[str, str]:
    """What has been run of each preset: what the tables of the zoo in ``results`` count of its arm."""
    text = results.read_text(encoding="utf-8") if results.is_file() else ""
    seeds = {arm: int(runs) for arm, runs in _RUNS.findall(text)}
    arms = {str(arm["method"]): name for name, arm in read_sweep_file(find_sweep("zoo"))["arms"].items()}
    found = {preset.name: seeds.get(arms.get(preset.name, ""), 0) for preset in known}
    return {name: f"tiny, {counted(count, 'seed')}" if count else "tested" for name, count in found.items()}


def papers_table(known: Sequence[Preset], status: dict[str, str]) -> str:
    """A line per paper: its presets, the slots that they change, its code, evidence and status."""
    papers: dict[str, list[Preset]] = {}
    for preset in known:
        papers.setdefault(preset.paper, []).append(preset)
    rows = ["| paper | methods | slots | lines of code | evidence | status |", "|---|---|---|---|---|---|"]
    for paper, own in papers.items():
        slots = dict.fromkeys(slot for each in own for slot in each.slots if slot != "updates_per_batch")
        code = {module: lines for each in own for module, lines in code_of(each).items()}
        cells = [
            linked(paper),
            ", ".join(f"`{each.name}`" for each in own),
            ", ".join(slots),
            str(sum(code.values()) or "-"),
            ", ".join(dict.fromkeys(each.evidence for each in own)),
            max((status[each.name] for each in own), key=lambda text: text != "tested"),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
