"""How far a search is, for whoever watches its sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensweep.cluster.reconcile import Queue
from tokensweep.identity import read_json
from tokensweep.search.copy import copy_study
from tokensweep.search.element import Living
from tokensweep.search.spec import search_folder


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Trials that count, by state, and the elements that still do something. ``remark`` is for people."""

    planned: int
    complete: int
    pruned: int
    failed: int
    running: int
    elements: int  # at work or in the queue
    best: str = ""  # of one objective: the best value so far, and whose it is
    remark: str = ""

    @property
    def told(self) -> int:
        """Trials that have ended."""
        return self.complete + self.pruned + self.failed

    def __str__(self) -> str:
        ended = ", ".join(
            f"{number} {state}" for state in ("pruned", "failed") if (number := getattr(self, state))
        )
        told = f"search: {self.told} of {self.planned} trials told" + (f" ({ended})" if ended else "")
        idle = self.elements - self.running
        parts = [told, f"{self.running} running" if self.running else ""]
        parts += [f"{idle} elements still to ask" if idle > 0 else "", self.best]
        return ", ".join(filter(None, parts))


def standing(store: Path, name: str, queue: Queue) -> Standing:
    """Of the search that a sweep is. Raises ValueError for damaged files."""
    folder = search_folder(store, name)
    remark = copy_study(store, name)
    node = read_json(folder / "trials.json")
    states = [row["state"] for row in node["trials"] if row["counted"]]
    living = Living(folder, queue=queue)
    return Standing(
        planned=node["planned"],
        **{state: states.count(state) for state in ("complete", "pruned", "failed", "running")},
        elements=sum(map(living, living.known())),
        best=_best(node),
        remark=remark,
    )


def _best(node: dict[str, Any]) -> str:
    done = [row for row in node["trials"] if row["state"] == "complete"]
    if len(node["objectives"]) > 1 or not done:
        return ""
    objective = node["objectives"][0]
    pick = max if objective["direction"] == "maximize" else min
    best = pick(done, key=lambda row: row["values"][0])
    return f"best {objective['name']} so far {best['values'][0]:.4g} ({best['arm']})"
