"""One optimiser batch of rollouts: draw problems, sample, grade, and let the method say which groups stay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from tokensweep.loss.outcomes import Outcomes
from tokensweep.loss.slots import Allocation, Sampling
from tokensweep.models.prompts import Decode, Encode, answer_text
from tokensweep.problems import Answered, Grade, Mixed, Outcome, Problem, ProblemSource
from tokensweep.rollout import Engine, Request, Rollout, SamplingSpec
from tokensweep.rollout.rules import Rule, pairs_of
from tokensweep.seeds import derive_seed
from tokensweep.train.ranks import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What came of a request: a rollout with its grade, and the text that was graded."""

    rollout: Rollout
    grade: Grade
    text: str  # with the thought that the prompt opened, see answer_text


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One graded rollout."""

    problem: Problem
    sample: int  # number of this rollout among those of its problem in this step
    request: Request
    rollout: Rollout
    grade: Grade
    text: str  # with the thought that the prompt opened, see answer_text


Phase = Callable[[str], AbstractContextManager[None]]  # times what happens inside, see Stopwatch.phase

Group = tuple[Trial, ...]  # the rollouts of one drawn prompt


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a step sampled, what it trains on, and where the data stands afterwards."""

    sampled: tuple[Group, ...]
    kept: tuple[Group, ...]
    rounds: int
    position: int  # problems drawn since the start of the run
    metrics: Mapping[str, float] = field(default_factory=dict)  # of allocation and source, by their keys


class Supply(Protocol):
    """What gives the optimiser batches of a run."""

    @property
    def on_policy(self) -> bool:
        """Whether it draws from the policy as it is, so that the engine must be given every new one."""
        ...

    def collect(
        self,
        *,
        step: int,
        position: int,
        allocation: Allocation,
        sampling: Sampling,
        phase: Phase = ...,
    ) -> Collected:
        """The batch of a step (from 1), after ``position`` problems; the same for the same arguments."""
        ...


def _untimed(name: str) -> AbstractContextManager[None]:
    return nullcontext()


def check_logprobs(rollouts: Sequence[Rollout], *, engine: str) -> None:
    """Raise ValueError unless every token has a finite log-probability of the sampler.

    A NaN would reach metrics and weights of other tokens; a ratio of 1 in its place would claim a match.
    """
    missing = sum(abs(len(rollout.completion_ids) - len(rollout.sampler_logprobs)) for rollout in rollouts)
    broken = sum(not math.isfinite(x) for rollout in rollouts for x in rollout.sampler_logprobs)
    if missing or broken:
        total = sum(len(rollout.completion_ids) for rollout in rollouts)
        raise ValueError(
            f"{engine} must give a finite log-probability for every token that it draws, but of {total} "
            f"tokens {missing} have none and {broken} one that is no finite number: look at the engine's "
            "number format and log-probability settings, or take rollout=torch"
        )


def accuracies(group: Group) -> Tensor:
    """Grades [G] of a group, 1 for correct."""
    return torch.tensor([trial.grade.accuracy for trial in group])


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Samples optimiser batches: the same step, position and weights give the same rollouts.

    ``encode`` turns a prompt's text into token ids, ``decode`` ids into text. Each of the ``ranks`` samples
    and grades its part of the requests, and all of them get the whole: no grade is made twice, as one that
    hits a time limit could be another the second time.
    """

    on_policy: ClassVar[bool] = True

    source: ProblemSource
    indices: tuple[int, ...]  # of the problems to draw
    engine: Engine
    encode: Encode
    decode: Decode
    sampling: SamplingSpec
    num_prompts: int
    group_size: int
    seed: int
    ranks: Ranks = ALONE

    def collect(
        self,
        *,
        step: int,
        position: int,
        allocation: Allocation,
        sampling: Sampling,
        phase: Phase = _untimed,
    ) -> Collected:
        """Rounds of sampling until the allocation wants no more rollouts; groups beyond the target are cut.

        ``sampling`` says which rollouts of a group are drawn by a rule.

        ``kept`` may hold fewer groups than the target, or none: the allocation limits its own rounds. This
        rank's part of the sampling is timed as ``phase("generate")``, its grading as ``phase("grade")``.
        Raises ValueError for log-probabilities of the engine that are missing or not finite.
        """
        rules = sampling.rules(self.group_size)
        groups: list[Group] = []
        drawn: Counter[str] = Counter()
        outcomes = self._outcomes(groups, rounds=0)
        while sum(counts := _checked(allocation.wanted(outcomes), known=len(groups))):
            new = len(counts) - len(groups)
            problems = [group[0].problem for group in groups]
            problems += [self.source[self.problem_at(position + offset)] for offset in range(new)]
            places = [len(group) for group in groups] + [0] * new
            asked = list(zip(problems, counts, places, strict=True))
            more = self._sample(asked, step=step, drawn=drawn, rules=rules, phase=phase)
            groups = [(*group, *added) for group, added in zip([*groups, *[()] * new], more, strict=True)]
            position += new
            outcomes = self._outcomes(groups, rounds=outcomes.round + 1)
        kept = [
            group for group, grades in zip(groups, outcomes.grades, strict=True) if allocation.keep(grades)
        ]
        return Collected(
            sampled=tuple(groups),
            kept=tuple(kept[: self.num_prompts]),
            rounds=outcomes.round,
            position=position,
            metrics={f"allocation/{k}": v for k, v in allocation.sampling_metrics(outcomes).items()},
        )

    def _outcomes(self, groups: Sequence[Group], *, rounds: int) -> Outcomes:
        return Outcomes(
            round=rounds,
            num_prompts=self.num_prompts,
            group_size=self.group_size,
            grades=tuple(accuracies(group) for group in groups),
        )

    def problem_at(self, position: int) -> int:
        """The problem at a position of the run; in a mixture every domain has an order of its own."""
        if not isinstance(self.source, Mixed):
            return self.indices[problem_index(position, size=len(self.indices), seed=self.seed)]
        domain, number = self.source.turn(position)
        own = self._of_domain[domain]
        if not own:
            raise ValueError(
                f"{self.source.name}: every {domain} problem has more than prompt.max_tokens tokens: raise "
                "it, or set data.target_share to 0 or 1"
            )
        return own[problem_index(number, size=len(own), seed=derive_seed(self.seed, "domain", domain))]

    @cached_property
    def _of_domain(self) -> Mapping[str, tuple[int, ...]]:
        """The problems that are drawn for each domain of a mixture, in order."""
        assert isinstance(self.source, Mixed)
        drawable = {domain: self.source.drawable(domain) for domain in self.source.domains}
        return {domain: tuple(i for i in self.indices if i in own) for domain, own in drawable.items()}

    def _sample(
        self,
        asked: Sequence[tuple[Problem, int, int]],
        *,
        step: int,
        drawn: Counter[str],
        rules: Sequence[Rule | None],  # of the rollouts of a group, from the first again beyond its size
        phase: Phase,
    ) -> list[Group]:
        """So many new rollouts of each problem. One drawn twice in a step gets new ones, not copies.

        ``asked`` has problems, how many rollouts of each, and how many its group has already.
        """
        pairs = [pairs_of(rule) for rule in rules]
        work: list[tuple[Problem, int, Request]] = []
        for problem, count, place in asked:
            prompt_ids = self.encode(self.source.prompt_text(problem))
            first = drawn[problem.id]
            drawn[problem.id] += count
            for sample in range(first, first + count):
                seed = derive_seed(self.seed, "rollout", step, problem.id, sample)
                rule = pairs[(place + sample - first) % len(pairs)]
                request = Request(prompt_ids=prompt_ids, seed=seed, sampling=self.sampling, rules=rule)
                work.append((problem, sample, request))
        trials = iter(self.draw(work, phase=phase))
        return [tuple(islice(trials, count)) for _, count, _ in asked]

    def draw(self, work: Sequence[tuple[Problem, int, Request]], *, phase: Phase = _untimed) -> list[Trial]:
        """A graded rollout of every request, with the problem and the number that stand beside it."""
        with self.ranks.agreed():
            own = self._draw([work[index] for index in self.ranks.part(len(work))], phase)
        return trials_of(work, shared(own, self.ranks))

    def _draw(self, work: Sequence[tuple[Problem, int, Request]], phase: Phase) -> list[Drawn]:
        """Sample and grade."""
        if not work:
            return []
        with phase("generate"):
            rollouts = self.engine.generate([request for _, _, request in work])
        check_logprobs(rollouts, engine=type(self.engine).__name__)
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
        with phase("grade"):
            grades = self.source.grade_many(answers)
        return [
            Drawn(rollout=rollout, grade=grade, text=answer.text)
            for rollout, grade, answer in zip(rollouts, grades, answers, strict=True)
        ]


def trials_of(work: Sequence[tuple[Problem, int, Request]], drawn: Sequence[Drawn]) -> list[Trial]:
    """What came of each request, with the problem and the number that stand beside it."""
    return [
        Trial(
            problem=problem,
            sample=sample,
            request=request,
            rollout=each.rollout,
            grade=each.grade,
            text=each.text,
        )
        for (problem, sample, request), each in zip(work, drawn, strict=True)
    ]


def _checked(counts: Sequence[int], *, known: int) -> Sequence[int]:
    """The counts, or no count where all are 0. Raises ValueError for counts that an allocation can't want."""
    if not counts:
        return ()
    if len(counts) < known or min(counts) < 0 or 0 in counts[known:]:
        raise ValueError(
            f"an allocation must give a number of rollouts for each of the {known} prompts drawn so far and "
            f"at least 1 for each new one, got {list(counts)}"
        )
    return counts


def shared(own: list[Drawn], ranks: Ranks) -> list[Drawn]:
    """What all ranks have drawn, in their order, to the bit."""
    if ranks.size == 1:
        return own
    rollouts = [drawn.rollout for drawn in own]
    ids = ranks.rows(torch.tensor([x for r in rollouts for x in r.completion_ids], dtype=torch.int64))
    logprobs = ranks.rows(
        torch.tensor([x for r in rollouts for x in r.sampler_logprobs], dtype=torch.float64)
    )
    rest = ranks.gather([without_tokens(drawn) for drawn in own])
    tokens = zip(torch.cat(ids).tolist(), torch.cat(logprobs).tolist(), strict=True)
    return [with_tokens(told, list(islice(tokens, told["length"]))) for part in rest for told in part]


def without_tokens(drawn: Drawn) -> dict[str, Any]:
    """All but ids and log-probabilities, as a JSON value."""
    return {
        "length": len(drawn.rollout.completion_ids),
        "finish_reason": drawn.rollout.finish_reason,
        "weights_version": drawn.rollout.weights_version,
        "grade": asdict(drawn.grade),
        "text": drawn.text,
    }


def with_tokens(told: dict[str, Any], tokens: list[tuple[int, float]]) -> Drawn:
    """What :func:`without_tokens` was made of."""
    return Drawn(
        rollout=Rollout(
            completion_ids=tuple(token for token, _ in tokens),
            sampler_logprobs=tuple(logprob for _, logprob in tokens),
            finish_reason=told["finish_reason"],
            weights_version=told["weights_version"],
        ),
        grade=Grade(**{**told["grade"], "outcome": Outcome(told["grade"]["outcome"])}),
        text=told["text"],
    )


def problem_index(position: int, *, size: int, seed: int) -> int:
    """The problem at ``position`` of an endless pass over ``size`` problems, shuffled anew in each epoch."""
    epoch, offset = divmod(position, size)
    return _order(size, derive_seed(seed, "data order", epoch))[offset]


@lru_cache(maxsize=4)
def _order(size: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist())
