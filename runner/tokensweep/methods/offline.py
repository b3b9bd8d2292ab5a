"""Rollouts that are drawn once, from the policy that a run starts from, and trained on again and again.

Source: Akgül et al., ReasonMaxxer, arXiv:2605.06241, and its code (``paper`` and ``code`` below).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from tokensweep.files import replacing
from tokensweep.loss.method import Method
from tokensweep.loss.slots import Allocation, Sampling, Source
from tokensweep.methods.grpo import PlainSampling, UniformAllocation
from tokensweep.registry import component
from tokensweep.seeds import derive_seed

if TYPE_CHECKING:
    from tokensweep.problems import Problem
    from tokensweep.rollout import Request
    from tokensweep.train.collect import Collected, Collector, Group, Phase, Trial

_FILE = "rollouts.parquet"


@component("method/source", "offline")
@dataclass(frozen=True)
class OfflineSource(Source):
    """``batch.group_size`` rollouts of each of ``problems`` problems, of which the most instructive are kept.

    Drawn in the first step from the policy that the run starts from, at a temperature and top-p of their own,
    and kept in the run's folder. A problem stays if it has right and wrong rollouts; of those the ``kept``
    with the pass rate nearest to one half, where equal those with fewer truncated rollouts, then with shorter
    ones. Of their rollouts the shortest share ``shortest`` is trained, in groups of what is left of each
    problem. A step takes ``batch.prompts`` groups; all of them come once per epoch, in another order each.
    Source: the code, whose 20 rollouts per problem are batch.group_size here; the paper draws 150 problems,
    the example scripts 300. Departures: the code deals single rollouts, here the groups of a step stay
    together and ``method.minibatch`` deals them; the order by clarity of its recipe is left out.
    """

    problems: int = 150
    kept: int = 50
    shortest: float = 0.8
    temperature: float = 0.6
    top_p: float = 0.95

    def __post_init__(self) -> None:
        if not 1 <= self.kept <= self.problems:
            raise ValueError(f"kept must lie between 1 and problems={self.problems}, got {self.kept}")
        if not 0 < self.shortest <= 1:
            raise ValueError(f"shortest must be in (0, 1], got {self.shortest:g}")
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "temperature must be above 0 and top_p in (0, 1], got "
                f"{self.temperature:g} and {self.top_p:g}: rollouts of a problem must differ"
            )

    def check(self, method: Method) -> None:
        """Nothing is drawn in a step, and what was drawn is not of the policy that is trained."""
        if method.allocation != UniformAllocation() or method.sampling != PlainSampling():
            raise ValueError(
                "source=offline draws once, so there is nothing to allocate in a step and no rule by which "
                "to draw: take method/allocation=uniform and method/sampling=plain"
            )
        readers = [where for where, part in method.parts() if "sampler_logprobs" in part.needs]
        if readers:
            raise ValueError(
                f"{' and '.join(readers)} compares the sampler with the policy that sampled, but with "
                "source=offline that is trained since: leave it out, or take method/source=engine"
            )

    def open(self, collector: Collector, *, folder: Path) -> OfflineSupply:
        """What deals the groups; they are drawn, or read from ``folder``, when the first are asked for."""
        return OfflineSupply(settings=self, collector=collector, path=folder / _FILE)


@dataclass(kw_only=True)
class OfflineSupply:
    """The groups of one run."""

    on_policy: ClassVar[bool] = False

    settings: OfflineSource
    collector: Collector
    path: Path
    _drawn: tuple[Group, ...] | None = None

    def collect(
        self,
        *,
        step: int,
        position: int,
        allocation: Allocation,
        sampling: Sampling,
        phase: Phase | None = None,
    ) -> Collected:
        """The groups after ``position``; the first step also tells what was drawn for all of them.

        Raises ValueError where no problem has both right and wrong rollouts, and where the file of a run that
        has gone on is missing.
        """
        from tokensweep.train.collect import Collected, problem_index

        if self._drawn is None:
            self._drawn = self._read_or_draw(first=step == 1, phase=phase)
        ranked = mixed_by_clarity(self._drawn)
        groups = without_longest(ranked[: self.settings.kept], share=self.settings.shortest)
        if not groups:
            raise ValueError(
                f"of {len(self._drawn)} problems none has both right and wrong rollouts, so there is nothing "
                "to learn: take other data, more problems (method.source.problems) or a larger "
                "batch.group_size"
            )
        count = min(self.collector.num_prompts, len(groups))
        seed = derive_seed(self.collector.seed, "offline order")
        chosen = [problem_index(position + i, size=len(groups), seed=seed) for i in range(count)]
        return Collected(
            sampled=self._drawn if step == 1 else (),
            kept=tuple(groups[index] for index in chosen),
            rounds=int(step == 1),
            position=position + count,
            metrics={
                "source/mixed_problems": float(len(ranked)),
                "source/problems": float(len(groups)),
                "source/rollouts": float(sum(map(len, groups))),
                "source/epochs": (position + count) / len(groups),
            },
        )

    def _read_or_draw(self, *, first: bool, phase: Phase | None) -> tuple[Group, ...]:
        """The rollouts of all problems, the same whether they are drawn or were by an earlier attempt."""
        work, ranks, size = self._work(), self.collector.ranks, self.collector.group_size
        if ranks.first(self.path.is_file()):
            with ranks.agreed():
                return _grouped(read_trials(self.path, work), size=size)
        with ranks.agreed():
            if not first:
                raise ValueError(
                    f"{self.path} is missing: it holds the rollouts of a run that has gone on from them, and "
                    "its policy is another by now; restore it, or move the run's folder away to start over"
                )
        trials = self.collector.draw(work, **({"phase": phase} if phase else {}))
        with ranks.agreed():
            if ranks.leads:
                write_trials(self.path, trials)
        return _grouped(trials, size=size)

    def _work(self) -> list[tuple[Problem, int, Request]]:
        """What is drawn, problem by problem."""
        from tokensweep.rollout import Request

        collector, settings = self.collector, self.settings
        sampling = replace(
            collector.sampling, temperature=settings.temperature, top_p=settings.top_p, top_k=0
        )
        size = len(collector.indices)
        work = []
        positions = range(min(settings.problems, size))
        for index in dict.fromkeys(collector.problem_at(position) for position in positions):
            problem = collector.source[index]
            prompt_ids = collector.encode(collector.source.prompt_text(problem))
            for sample in range(collector.group_size):
                seed = derive_seed(collector.seed, "offline", problem.id, sample)
                work.append((problem, sample, Request(prompt_ids=prompt_ids, seed=seed, sampling=sampling)))
        return work


def _grouped(trials: Sequence[Trial], *, size: int) -> tuple[Group, ...]:
    return tuple(tuple(trials[i : i + size]) for i in range(0, len(trials), size))


def mixed_by_clarity(groups: Sequence[Group]) -> list[Group]:
    """The groups with right and wrong rollouts, those with a pass rate near one half first.

    Where equal, those with fewer truncated rollouts come first, then those with shorter ones, then the
    earlier.
    """

    def unclear(group: Group) -> tuple[float, int, int]:
        rate = sum(trial.grade.accuracy for trial in group) / len(group)
        truncated = sum(trial.rollout.finish_reason == "length" for trial in group)
        return abs(rate - 0.5), truncated, sum(len(trial.rollout.completion_ids) for trial in group)

    mixed = [group for group in groups if len({trial.grade.accuracy for trial in group}) > 1]
    return sorted(mixed, key=unclear)


def without_longest(groups: Sequence[Group], *, share: float) -> list[Group]:
    """The groups without all but the shortest ``share`` of their pooled rollouts; the earlier where equal.

    The count is rounded down; a group that loses all of its rollouts is left out.
    """
    pool = [(number, place) for number, group in enumerate(groups) for place in range(len(group))]
    pool.sort(key=lambda at: len(groups[at[0]][at[1]].rollout.completion_ids))
    stay = set(pool[: math.floor(share * len(pool) + 1e-9)])  # 0.7 * 10 is a little less than 7 in floats
    trimmed = (
        tuple(trial for place, trial in enumerate(group) if (number, place) in stay)
        for number, group in enumerate(groups)
    )
    return [group for group in trimmed if group]


# One row per rollout, in the order in which they were drawn.
_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("sample", pa.int64()),
        ("sampling_seed", pa.int64()),
        ("told", pa.string()),  # JSON: grade, text and how it ended
        ("token_ids", pa.list_(pa.int32())),
        ("sampler_logprobs", pa.list_(pa.float64())),
    ]
)


def write_trials(path: Path, trials: Sequence[Trial]) -> None:
    """Keep graded rollouts, whole or not at all."""
    from tokensweep.train.collect import Drawn, without_tokens

    rows = [
        {
            "problem_id": trial.problem.id,
            "sample": trial.sample,
            "sampling_seed": trial.request.seed,
            "told": json.dumps(
                without_tokens(Drawn(rollout=trial.rollout, grade=trial.grade, text=trial.text))
            ),
            "token_ids": list(trial.rollout.completion_ids),
            "sampler_logprobs": list(trial.rollout.sampler_logprobs),
        }
        for trial in trials
    ]
    with replacing(path) as partial:
        table = pa.Table.from_pylist(rows, schema=_SCHEMA)
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)


def read_trials(path: Path, work: Sequence[tuple[Problem, int, Request]]) -> list[Trial]:
    """The rollouts of these requests, to the bit. Raises ValueError for a file that is not theirs."""
    from tokensweep.train.collect import trials_of, with_tokens

    try:
        rows: list[dict[str, Any]] = pq.read_table(path, page_checksum_verification=True).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} is damaged ({error}): restore it, or move the run's folder away to start over"
        ) from error
    asked = [(problem.id, sample, request.seed) for problem, sample, request in work]
    if [(row["problem_id"], row["sample"], row["sampling_seed"]) for row in rows] != asked:
        raise ValueError(
            f"{path} must hold the {len(asked)} rollouts that its run asks for, got {len(rows)} of other "
            "problems or seeds: move the run's folder away to start over"
        )
    drawn = [
        with_tokens(
            json.loads(row["told"]), list(zip(row["token_ids"], row["sampler_logprobs"], strict=True))
        )
        for row in rows
    ]
    return trials_of(work, drawn)
