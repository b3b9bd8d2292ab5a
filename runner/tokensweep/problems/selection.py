"""Which general problems are worth mixing in: those whose outcome and whose tokens are uncertain.

``tokensweep data select`` scores problems from the stored rollouts of a run and writes the best as a file,
one JSON object with ``id`` and ``score`` per line; ``data.selection`` of a mixture reads it.
Source: Liu et al., HEAL, arXiv:2604.17928, as a detailed note has it; the scoring is not in its released
code, and the number of rollouts per problem is not stated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_TOP = 0.2  # share of a rollout's tokens that diversity is measured on


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One rollout of a problem."""

    problem_id: str
    correct: bool
    entropy: Sequence[float]  # nats, per token


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What was measured of a problem."""

    problem_id: str
    num_rollouts: int
    accuracy: float
    diversity: float  # nats

    @property
    def uncertainty(self) -> float:
        """1 where half of the rollouts are right, 0 where all or none are: ``1 - 2 |accuracy - 1/2|``."""
        return 1 - 2 * abs(self.accuracy - 0.5)

    @property
    def score(self) -> float:
        """Uncertainty times diversity, nats."""
        return self.uncertainty * self.diversity


def top_entropy(entropy: Sequence[float]) -> float:
    """Mean over the ``ceil(20 %)`` tokens of highest entropy, nats; 0 without tokens."""
    top = sorted(entropy, reverse=True)[: math.ceil(_TOP * len(entropy))]
    return sum(top) / len(top) if top else 0.0


def scored(tried: Iterable[Tried]) -> list[Scored]:
    """Every problem with its numbers, best first; equal scores in the order of the ids."""
    rollouts: dict[str, list[Tried]] = {}
    for each in tried:
        rollouts.setdefault(each.problem_id, []).append(each)
    found = [
        Scored(
            problem_id=problem_id,
            num_rollouts=len(own),
            accuracy=sum(each.correct for each in own) / len(own),
            diversity=sum(top_entropy(each.entropy) for each in own) / len(own),
        )
        for problem_id, own in rollouts.items()
    ]
    return sorted(found, key=lambda each: (-each.score, each.problem_id))


def selection_lines(chosen: Iterable[Scored]) -> str:
    """The content of a selection file."""
    rows = (
        {
            "id": each.problem_id,
            "score": each.score,
            "uncertainty": each.uncertainty,
            "diversity": each.diversity,
            "num_rollouts": each.num_rollouts,
        }
        for each in chosen
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def read_selection(path: str) -> tuple[str, ...]:
    """The ids in a selection file, in order. Raises ValueError for a file that is missing or malformed."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(
            f"data.selection must be a file, but {path} is none: tokensweep data select writes one"
        )
    stat = file.stat()
    return _read(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _read(file: Path, size: int, changed: int) -> tuple[str, ...]:
    """The ids; size and time of change only key the cache."""
    ids = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            ids.append(str(json.loads(line)["id"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} line {number} must be a JSON object with an id ({error}): select again"
            ) from None
    if not ids:
        raise ValueError(f"{file} is empty: it must name at least one problem")
    return tuple(ids)
