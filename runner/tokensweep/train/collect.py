"""One optimiser batch of rollouts: draw problems, sample, grade, and let the method say which groups stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tokensweep.loss.method import Allocation
from tokensweep.models.prompts import Decode, Encode, answer_text
from tokensweep.problems import Answered, Grade, Problem, ProblemSource
from tokensweep.rollout import Engine, Request, Rollout, SamplingSpec
from tokensweep.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One graded rollout."""

    problem: Problem
    sample: int  # number of this rollout among those of its problem in this step
    request: Request
    rollout: Rollout
    grade: Grade
    text: str  # with the thought that the prompt opened, see answer_text


Group = tuple[Trial, ...]  # the rollouts of one drawn prompt


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a step sampled, what it trains on, and where the data stands afterwards."""

    sampled: tuple[Group, ...]
    kept: tuple[Group, ...]
    rounds: int
    position: int  # problems drawn since the start of the run


def accuracies(group: Group) -> Tensor:
    """Grades [G] of a group, 1 for correct."""
    return torch.tensor([trial.grade.accuracy for trial in group])


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Samples optimiser batches: the same step, position and weights give the same rollouts.

    ``encode`` turns a prompt's text into token ids, ``decode`` ids into text.
    """

    source: ProblemSource
    indices: tuple[int, ...]  # of the problems to draw
    engine: Engine
    encode: Encode
    decode: Decode
    sampling: SamplingSpec
    num_prompts: int
    group_size: int
    seed: int

    def collect(self, *, step: int, position: int, allocation: Allocation) -> Collected:
        """Rounds of sampling until the allocation wants no more prompts; groups beyond the target are cut.

        ``kept`` may hold fewer groups than the target, or none: the allocation limits its own rounds.
        """
        sampled: list[Group] = []
        kept: list[Group] = []
        drawn: Counter[str] = Counter()
        rounds = 0
        while count := allocation.wanted(rounds, kept=len(kept), target=self.num_prompts):
            indices = [self._index(position + offset) for offset in range(count)]
            groups = self._sample([self.source[index] for index in indices], step=step, drawn=drawn)
            sampled += groups
            kept += [group for group in groups if allocation.keep(accuracies(group))]
            position += count
            rounds += 1
        target = tuple(kept[: self.num_prompts])
        return Collected(sampled=tuple(sampled), kept=target, rounds=rounds, position=position)

    def _index(self, position: int) -> int:
        return self.indices[problem_index(position, size=len(self.indices), seed=self.seed)]

    def _sample(self, problems: Sequence[Problem], *, step: int, drawn: Counter[str]) -> list[Group]:
        """One group per problem. A problem drawn twice in a step gets new samples, not copies."""
        work: list[tuple[Problem, int, Request]] = []
        for problem in problems:
            prompt_ids = self.encode(self.source.prompt_text(problem))
            first = drawn[problem.id]
            drawn[problem.id] += self.group_size
            for sample in range(first, first + self.group_size):
                seed = derive_seed(self.seed, "rollout", step, problem.id, sample)
                work.append(
                    (problem, sample, Request(prompt_ids=prompt_ids, seed=seed, sampling=self.sampling))
                )
        rollouts = self.engine.generate([request for _, _, request in work])
        trials = self._graded(work, rollouts)
        return [tuple(trials[i : i + self.group_size]) for i in range(0, len(trials), self.group_size)]

    def _graded(
        self, work: Sequence[tuple[Problem, int, Request]], rollouts: Sequence[Rollout]
    ) -> list[Trial]:
        answers = [
            Answered(
                problem=problem,
                text=answer_text(
                    self.decode, prompt_ids=request.prompt_ids, completion_ids=rollout.completion_ids
                ),
                finish_reason=rollout.finish_reason,
            )
            for (problem, _, request), rollout in zip(work, rollouts, strict=True)
        ]
        grades = self.source.grade_many(answers)
        return [
            Trial(
                problem=problem,
                sample=sample,
                request=request,
                rollout=rollout,
                grade=grade,
                text=answer.text,
            )
            for (problem, sample, request), rollout, answer, grade in zip(
                work, rollouts, answers, grades, strict=True
            )
        ]


def problem_index(position: int, *, size: int, seed: int) -> int:
    """The problem at ``position`` of an endless pass over ``size`` problems, shuffled anew in each epoch."""
    epoch, offset = divmod(position, size)
    return _order(size, derive_seed(seed, "data order", epoch))[offset]


@lru_cache(maxsize=4)
def _order(size: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist())
