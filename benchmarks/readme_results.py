"""Put the results table of a finished sweep into README.md.

    python -m benchmarks.readme_results STORE SWEEP [--readme FILE]

It replaces what stands between the lines ``<!-- results:begin -->`` and ``<!-- results:end -->``, so numbers
in the README are never typed. Runs that failed are counted in the table; a sweep with runs that are missing
or still running is refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.markers import insert
from tokensweep_analysis.report import to_compact_markdown
from tokensweep_analysis.tables import Comparison, compare

_README = Path(__file__).resolve().parent.parent / "README.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Exits with status 2 and one line on what is wrong."""
    parser = argparse.ArgumentParser(
        description="Put the results table of a finished sweep into README.md.",
        epilog="Replaces what stands between the lines results:begin and results:end, in one step.",
    )
    parser.add_argument("store", type=Path, help="folder with runs/ and sweeps/")
    parser.add_argument("sweep", help="name of the sweep there, for example forking_tokens-tiny")
    parser.add_argument("--readme", type=Path, default=_README, help="default: README.md of this repository")
    options = parser.parse_args(arguments)
    try:
        insert_results(options.readme, finished(options.store, options.sweep))
    except (ValueError, OSError) as error:
        print(f"readme_results: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{options.sweep} stands in {options.readme}")


def finished(store: Path, sweep: str) -> Comparison:
    """The comparison of a sweep. Raises ValueError while it has runs that neither count nor failed."""
    comparison = compare(store, sweep)
    states = sorted({trouble.state for trouble in comparison.troubles} - {"failed"})
    if states:
        raise ValueError(
            f"every run of {sweep} must have finished or failed, got runs that are {', '.join(states)}: "
            "give the sweep command again, it continues them"
        )
    return comparison


def insert_results(readme: Path, comparison: Comparison) -> None:
    """Replace what stands between the markers of ``readme``, in one step.

    Raises ValueError unless it has each marker once and in order, OSError when it cannot be read or written.
    """
    insert(readme, "results", to_compact_markdown(comparison))


if __name__ == "__main__":
    main()
