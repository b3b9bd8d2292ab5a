"""Problems of two domains in one run: a target of which there are few, and a general domain beside it.

Both parts are sources of their own, chosen like any data: ``data=mixed data@data.target=gsm8k
data@data.general=math``. Every problem knows its domain (``Problem.domain``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar

from tokensweep.problems.protocol import Answered, Demonstrated, Grade, Problem, ProblemSource
from tokensweep.problems.selection import read_selection
from tokensweep.registry import KIND, component

TARGET, GENERAL = "target", "general"
DOMAINS = (TARGET, GENERAL)  # in the order in which a turn counts them
_MIXTURE = "data/mixture"


@component("data", "mixture")
@dataclass(frozen=True)
class Mixture:
    """A target and a general source in fixed shares.

    Of every n prompts that are drawn in a row, ``floor`` or ``ceil`` of ``n * target_share`` are of the
    target: an optimiser batch has exactly that many where it is a whole number. Each domain goes through its
    own problems in epochs, so few of them come often. With an allocation that leaves groups out or samples
    in rounds, the shares are those of what is sampled.
    What is trained on are the first ``num_target`` and ``num_general`` problems of the parts, in the general
    domain of those that ``selection`` names where there is one. The whole parts are what a model is
    warm-started on and what the content hash is of, so the arms of a comparison begin with one model. The
    held-out suite of such data is that of its target.
    Source: Liu et al., HEAL, arXiv:2604.17928: 32 target problems, 384 general ones, a quarter of each batch
    of 128 prompts; its file holds the batches in order. Departure: the problems of a batch are not shuffled
    among themselves, which a loss does not see.
    Raises ValueError for a share outside [0, 1] and numbers below 1.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("selection",)  # its ids are content
    domains: ClassVar[tuple[str, ...]] = DOMAINS

    target: ProblemSource
    general: ProblemSource
    target_share: float = 0.25
    num_target: int | None = 32  # null: all
    num_general: int | None = 384
    selection: str = ""  # file with ids of general problems, see `tokensweep data select`; empty: any
    max_tokens: int = 2048  # limit for a completion

    def __post_init__(self) -> None:
        if not 0 <= self.target_share <= 1:
            raise ValueError(f"target_share must be in [0, 1], got {self.target_share:g}")
        for name in ("num_target", "num_general"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or null for all, got {value}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")

    @property
    def name(self) -> str:
        """The names of both parts."""
        return f"{self.target.name}+{self.general.name}"

    @property
    def grader(self) -> str:
        """Those of the parts."""
        return "+".join(dict.fromkeys((self.target.grader, self.general.grader)))

    @property
    def answer_space(self) -> int | None:
        """Unknown: it differs between the domains."""
        return None

    def __len__(self) -> int:
        return len(self.target) + len(self.general)

    def __getitem__(self, index: int, /) -> Problem:
        domain, place = _places(self)[index]
        problem = self._part(domain)[place]
        return replace(problem, domain=domain)

    def check(self) -> None:
        """Raise ValueError if a part can not be used, an id is in both, or the selection has unknown ids."""
        for domain in DOMAINS:
            self._part(domain).check()
        ids = {domain: _ids(self._part(domain)) for domain in DOMAINS}
        if both := sorted(ids[TARGET] & ids[GENERAL]):
            raise ValueError(
                f"the domains of {self.name} must have problems of their own, but {len(both)} ids are in "
                f"both, such as {both[0]!r}: rename them in one file, or take other problems"
            )
        if self.selection and (unknown := sorted(set(read_selection(self.selection)) - ids[GENERAL])):
            raise ValueError(
                f"data.selection must name problems of {self.general.name}, but {unknown[0]!r} is none "
                f"({len(unknown)} of them): select from this source, see tokensweep data select"
            )

    def content_hash(self) -> str:
        """SHA-256 over both parts and what is selected; shares and numbers are fields, and no content."""
        rows: list[Any] = ["mixture", *(self._part(domain).content_hash() for domain in DOMAINS)]
        if self.selection:
            rows.append(list(read_selection(self.selection)))
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def prompt_text(self, problem: Problem) -> str:
        """As the part of its domain has it."""
        return self._part(problem.domain).prompt_text(problem)

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        """As the part of its domain grades it."""
        return self._part(problem.domain).grade(problem, text, finish_reason)

    def grade_many(self, answers: Sequence[Answered], /) -> list[Grade]:
        """Each domain's answers by its own part, in the order given."""
        grades: dict[int, Grade] = {}
        for domain in DOMAINS:
            own = [place for place, answer in enumerate(answers) if answer.problem.domain == domain]
            told = self._part(domain).grade_many([answers[place] for place in own]) if own else []
            grades.update(zip(own, told, strict=True))
        return [grades[place] for place in range(len(answers))]

    def demonstration(self, problem: Problem, seed: int) -> str:
        """As the part of its domain shows it. Raises ValueError where that part has none."""
        part = self._part(problem.domain)
        if not isinstance(part, Demonstrated):
            raise ValueError(
                f"{part.name} has no demonstrations to warm-start a model on: choose procedural tasks for "
                "both domains, or a model that reads text"
            )
        return part.demonstration(problem, seed)

    def turn(self, position: int, /) -> tuple[str, int]:
        """The domain of the prompt at a position of the run, and how many of it came before."""
        share = Fraction(str(self.target_share))
        before, after = (position * share) // 1, ((position + 1) * share) // 1
        return (TARGET, int(before)) if after > before else (GENERAL, position - int(before))

    def drawable(self, domain: str, /) -> frozenset[int]:
        """Indices of the problems of a domain that are trained on."""
        return _drawable(self)[domain]

    def _part(self, domain: str) -> ProblemSource:
        assert domain in DOMAINS, f"a problem of a mixture has a domain, got {domain!r}"
        return self.target if domain == TARGET else self.general


def parts_of(source: ProblemSource) -> dict[str, ProblemSource]:
    """The sources that problems come from, by their key: ``data``, or those of a mixture."""
    if isinstance(source, Mixture):
        return {"data.target": source.target, "data.general": source.general}
    return {"data": source}


def nodes_of(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The config nodes behind :func:`parts_of`, of any data node: themselves, not copies."""
    return [node[domain] for domain in DOMAINS] if node[KIND] == _MIXTURE else [node]


def tested(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The node of the data whose test split stands for all of it: a mixture's is its target's."""
    return node[TARGET] if node[KIND] == _MIXTURE else node


def _ids(source: ProblemSource) -> set[str]:
    return {source[index].id for index in range(len(source))}


@lru_cache(maxsize=4)
def _places(mixture: Mixture) -> tuple[tuple[str, int], ...]:
    """Domain and place of every problem, evenly mixed: in order, both come throughout."""
    sizes = {TARGET: len(mixture.target), GENERAL: len(mixture.general)}
    placed = [((i + 0.5) / size, domain, i) for domain, size in sizes.items() for i in range(size)]
    return tuple((domain, place) for _, domain, place in sorted(placed))


@lru_cache(maxsize=4)
def _drawable(mixture: Mixture) -> Mapping[str, frozenset[int]]:
    places = {domain: [i for i, at in enumerate(_places(mixture)) if at[0] == domain] for domain in DOMAINS}
    target, general = places[TARGET], places[GENERAL]
    if mixture.selection:
        chosen = set(read_selection(mixture.selection))
        general = [index for index in general if mixture[index].id in chosen]
    return {
        TARGET: frozenset(target[: mixture.num_target]),
        GENERAL: frozenset(general[: mixture.num_general]),
    }
