"""Which questions a search has asked, and how a confirmation comes by others; compared are the questions
themselves, not what a config says of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokensweep.compose import Frozen
from tokensweep.identity import digest, read_json
from tokensweep.plan import Plan
from tokensweep.problems.jsonl import JsonlProblems
from tokensweep.problems.mixture import tested
from tokensweep.problems.overlap import shared
from tokensweep.problems.protocol import Problem, ProblemSource
from tokensweep.registry import KIND, build

Node = Mapping[str, Any]
_SHOWN = 3  # ids in a message


def asked_by(
    trials: Iterable[Mapping[str, Any]], *, store: Path, config_of: Callable[[Mapping[str, Any]], Frozen]
) -> list[Node]:
    """Config nodes of the suites that the runs of trials were planned with, each once.

    ``config_of`` composes a complete trial again whose runs are not in the store any more.
    """
    found: dict[str, Node] = {}
    for trial in trials:
        plans = [store / "runs" / run_id / "plan.json" for run_id in trial["runs"].values()]
        there = [path for path in plans if path.is_file()]
        nodes = [entry["source"] for path in there for entry in read_json(path)["evals"]]
        if len(there) < max(1, len(plans)) and trial["state"] == "complete":
            nodes += config_of(trial)["eval"]["suites"].values()
        for node in nodes:
            found.setdefault(digest(node), node)
    return list(found.values())


def asked_again(node: Node, seen: Sequence[Node]) -> list[Problem]:
    """The questions of a suite that others have, in order.

    Those of files are the same by the rule of :mod:`tokensweep.problems.overlap`, all others if their texts
    are equal.
    """
    suite = build(node)
    found: set[str] = set()
    for other in map(build, seen):
        if isinstance(suite, JsonlProblems) and isinstance(other, JsonlProblems):
            found.update(problem.id for problem in shared(_all(suite), _all(other)))
        else:
            texts = {problem.prompt for problem in _all(other)}
            found.update(problem.id for problem in _all(suite) if problem.prompt in texts)
    return [problem for problem in _all(suite) if problem.id in found]


def skipping(config: Frozen, seen: Sequence[Node], *, given: Iterable[str]) -> list[str]:
    """Overrides with which the suites of a config go on where those that were seen ended.

    A suite that shares no question with them needs none, and one whose key is ``given`` stays as it is. None
    can be given for a suite that was asked as a whole.
    """
    typed, found = set(given), []
    for name, node in config["eval"]["suites"].items():
        key, end = _skip_key(config, name), _end(node, seen)
        if "skip" in node and end is not None and key not in typed and asked_again(node, seen):
            found.append(f"{key}={end}")
    return found


def _skip_key(config: Frozen, name: str) -> str:
    """The key that says what a suite skips; that of the training data's test split stands for itself."""
    is_held_out = config["eval"]["held_out"] and name == build(tested(config["data"])).name
    return "eval.held_out_skip" if is_held_out else f"eval.suites.{name}.skip"


def _end(node: Node, seen: Sequence[Node]) -> int | None:
    """How many of the first problems of a suite's split were asked; None where it was all of them."""
    same = ("split", "path", KIND)
    alike = [one for one in seen if all(one.get(key) == node.get(key) for key in same)]
    sizes = [one.get("size") for one in alike]
    if not alike or None in sizes:
        return None
    return max(int(one.get("skip", 0)) + int(one["size"]) for one in alike)


def refuse_seen(plan: Plan, seen: Sequence[Node], *, search: str) -> None:
    """Raise ValueError when a planned evaluation asks a question that the search has asked."""
    entries = {digest(entry["source"]): entry for run in plan.runs for entry in run.evals}
    if not entries:
        raise ValueError(
            "nothing is evaluated, so nothing can be confirmed: give eval=NAME or eval.held_out=N"
        )
    for entry in entries.values():
        if again := asked_again(entry["source"], seen):
            ids = ", ".join(problem.id for problem in again[:_SHOWN]) + (", ..." if again[_SHOWN:] else "")
            raise ValueError(
                f"{len(again)} of {entry['num_questions']} questions of the suite {entry['suite']} are those "
                f"of the search {search} ({ids}), so its luck with them "
                f"would count again: {ways_out(entry['source'])}"
            )


def ways_out(node: Node) -> str:
    """How to get a verdict where a suite has too few questions that the search has not asked."""
    part = ""
    if node.get("split") == "train" and node.get("size") is None:
        part = " (a search that asks a part, such as eval.suites.NAME.size=15, leaves the others for this)"
    return f"ask others with eval=NAME{part}, or give --same-questions, which the note of the table then says"


def _all(source: ProblemSource) -> list[Problem]:
    return [source[index] for index in range(len(source))]
