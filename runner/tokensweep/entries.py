"""``sweep.json``: what a sweep compares, with a row for every run that it has."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokensweep.files import write_json
from tokensweep.identity import read_json
from tokensweep.sweepfile import Sweep


def write_entries(sweep: Sweep, entries: Iterable[Mapping[str, Any]], *, folder: Path) -> None:
    """Add rows to a sweep's list of runs. Elements of a search do so at once: they take turns."""
    path = folder / "sweep.json"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".entries.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = read_json(path)["runs"] if path.is_file() else []
        content = {
            "name": sweep.name,
            "scale": sweep.scale,
            "paper": sweep.paper,
            "question": sweep.question,
            "note": sweep.note,
            "baseline": sweep.baseline,
            "claims": list(sweep.claims),
            **(
                {"factors": {name: list(arms) for name, arms in sweep.factors.items()}}
                if sweep.factors
                else {}
            ),
            "runs": merge_entries(known, entries),
        }
        write_json(path, content)


def merge_entries(
    known: Iterable[Mapping[str, Any]], new: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Entries of earlier calls stay as long as their arm still means the same overrides."""
    new = list(new)
    cells = {(e["setting"], e["arm"], e["seed"]) for e in new}
    meaning = {(e["setting"], e["arm"]): e["overrides"] for e in new}
    kept = [
        e
        for e in known
        if (e["setting"], e["arm"], e["seed"]) not in cells
        and meaning.get((e["setting"], e["arm"]), e["overrides"]) == e["overrides"]
    ]
    return [*kept, *new]
