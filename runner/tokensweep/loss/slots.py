"""The slots of a method: what a component of each is asked for, and what it may say about itself.

A component is a frozen dataclass that derives from the protocol of its slot and is registered with
``@component("method/<slot>", name)``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from torch import Tensor

from tokensweep.loss.outcomes import Outcomes
from tokensweep.loss.tables import Batch, Scope, View

if TYPE_CHECKING:
    from pathlib import Path

    from tokensweep.loss.method import Method
    from tokensweep.problems import ProblemSource
    from tokensweep.rollout.rules import Rule
    from tokensweep.train.collect import Collector, Supply, Trial

CURRENT = frozenset({"entropy", "ref_divergence"})  # needs that are no columns: known in the update only
REFERENCE = frozenset({"ref_logprobs", "ref_entropy", "ref_divergence"})  # needs of the frozen first policy


class Guarantee(StrEnum):
    """A law that a component keeps: the trainer saves work where all parts do, tests check each claim."""

    additive = "additive"  # however a mini-batch is cut into micro-batches, the losses add up to the same
    signal_only = "signal_only"  # no gradient where the advantage is 0
    rollout_local = "rollout_local"  # a token's result reads its own rollout only
    token_local = "token_local"  # a token's result reads that token only
    scales_advantage = "scales_advantage"  # a surrogate that is the advantage times a positive number


TOKEN_LOCAL = frozenset(
    {Guarantee.additive, Guarantee.signal_only, Guarantee.rollout_local, Guarantee.token_local}
)
ROLLOUT_LOCAL = TOKEN_LOCAL - {Guarantee.token_local}


class Policy(StrEnum):
    """Which policy a component looks at."""

    old = "old"  # the one that sampled: known for the whole optimiser batch before the first step
    current = "current"  # the one being trained: known inside a forward only


Memory = Mapping[str, float]  # what a component remembers from one optimiser batch to the next


def check_scope(scope: Scope, policy: Policy) -> None:
    """Raise ValueError when ``policy`` is not known for all tokens of a segment of ``scope``."""
    if policy is Policy.current and scope is not Scope.micro:
        raise ValueError(
            f"the current policy is known for one micro-batch only, got scope {scope}: set scope=micro, or "
            "policy=old"
        )


class Part(Protocol):
    """What every component can say about itself; the defaults promise nothing and ask for nothing."""

    @property
    def needs(self) -> frozenset[str]:
        """Columns that must be there before :func:`tokensweep.loss.objective.prepare`.

        ``entropy`` and ``ref_divergence`` ask for the current policy's in the update instead,
        ``new_<statistic>`` of a probe for a pass after it.
        """
        return frozenset()

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        """Laws that hold whatever the batch."""
        return frozenset()

    @property
    def differentiates_entropy(self) -> bool:
        """Whether a gradient flows through ``view.entropy``."""
        return False

    def init(self) -> Memory:
        """Memory before the first optimiser batch; empty: this component remembers nothing."""
        return {}

    def adapt(self, memory: Memory, batch: Batch) -> tuple[Self, Memory]:
        """The component as it acts on ``batch``, whose columns are filled, and the memory for the next."""
        return self, memory

    def columns(self, whole: View) -> Mapping[str, Tensor]:
        """Columns [N] that it makes for itself, once per optimiser batch, from what the old policy says."""
        return {}

    def facts(self, trial: Trial) -> Mapping[str, float]:
        """What it reads in one graded rollout, as numbers by name: ``batch.facts`` and ``view.facts``."""
        return {}

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """Numbers that show what it does, once per optimiser batch.

        ``whole`` has the old policy's log-probabilities and the advantages and weights of all parts that
        read the old policy.
        """
        return {}

    def metrics(self, view: View, log_ratio: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Numbers that show what it does in a micro-batch as (sum, count), added up before they are divided.

        ``view`` and ``log_ratio`` [n] are those that the surrogate sees, without gradient.
        """
        return {}

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """Fields that change nothing as things stand, with the reason."""
        return {}

    def check(self, method: Method) -> None:
        """Raise ValueError where this component does not go with the rest of the method."""
        return

    def check_source(self, source: ProblemSource) -> None:
        """Raise ValueError where this component can do nothing with problems of that source."""
        return


class Allocation(Part, Protocol):
    """Decides how many rollouts each prompt gets, in rounds, and which groups are trained."""

    @abstractmethod
    def wanted(self, outcomes: Outcomes) -> Sequence[int]:
        """Further rollouts of every prompt drawn so far, then of each new prompt to draw; none at all ends.

        Called again after each round with what has come of it. A new prompt must get at least one rollout.
        """
        ...

    @abstractmethod
    def keep(self, accuracy: Tensor) -> bool:
        """Whether a group with these grades [G] is trained, asked when sampling is over."""
        ...

    def check_group_size(self, size: int) -> None:
        """Raise ValueError where prompts can't have ``size`` rollouts on average."""
        return

    def sampling_metrics(self, outcomes: Outcomes) -> Mapping[str, float]:
        """Numbers that show what it did in the step whose sampling has ended with ``outcomes``."""
        return {}


class Sampling(Part, Protocol):
    """Decides by which rule each rollout of a group is drawn.

    The loss knows nothing of it: such a rollout counts as drawn by the old policy. What the engine reports of
    its log-probabilities is of another distribution, so nothing reads it, see ``train.batch``.
    """

    @abstractmethod
    def rule(self, sample: int, *, group_size: int) -> Rule | None:
        """The rule of rollout ``sample``, from 0, of a group; None: drawn as the run's ``sampling`` says.

        Raises ValueError for a group that can't be divided as the component wants.
        """
        ...

    def rules(self, group_size: int) -> tuple[Rule | None, ...]:
        """That of every rollout of a group."""
        return tuple(self.rule(sample, group_size=group_size) for sample in range(group_size))


class Source(Part, Protocol):
    """Decides where the rollouts of the optimiser batches come from."""

    @abstractmethod
    def open(self, collector: Collector, *, folder: Path) -> Supply:
        """What gives the batches of a run, where ``collector`` can draw rollouts from the run's engine.

        ``folder`` is in the run's, for what must outlast an interruption; it need not exist.
        """
        ...


class RewardTerm(Part, Protocol):
    """(Batch) -> [R], added up with the weights of all terms."""

    @property
    @abstractmethod
    def weight(self) -> float:
        """Factor of this term in the sum."""
        ...

    @abstractmethod
    def __call__(self, batch: Batch) -> Tensor: ...


class TokenReward(Part, Protocol):
    """(Batch) -> [N], reward earned at a token; all of them are added up, and to the rollout's reward."""

    @abstractmethod
    def __call__(self, batch: Batch) -> Tensor: ...


class Advantage(Part, Protocol):
    """(Batch) -> [N], from ``batch.rewards`` [R], token rewards included.

    With token rewards the column ``token_rewards`` says how much of them was earned where.
    """

    @property
    def smallest_group(self) -> int:
        """Rollouts of a prompt that it takes to learn anything: 2 where they are compared."""
        return 1

    @abstractmethod
    def __call__(self, batch: Batch) -> Tensor: ...


class Observer(Part, Protocol):
    """A component that looks at what a policy says of the tokens, and is never differentiated.

    With the old policy it is called once with a view of the whole optimiser batch, whose ``logprobs``
    and ``entropy`` are the columns ``old_logprobs`` and ``old_entropy``; with the current policy once per
    micro-batch.
    """

    @property
    def policy(self) -> Policy:
        """Whose entropies and log-probabilities it reads: those of the old policy, unless it says so."""
        return Policy.old

    @abstractmethod
    def __call__(self, view: View) -> Tensor: ...


class AdvantageShaper(Observer, Protocol):
    """(View) -> advantages [n] in place of ``view.advantages``.

    Applied in the order of the map, those of the old policy first.
    """


class TokenWeight(Observer, Protocol):
    """(View) -> [n]; the product of all of them weights the tokens."""


class Minibatch(Part, Protocol):
    """(Batch) -> mini-batch of each rollout [R] int64; random numbers come from ``seed`` only."""

    keeps_groups: ClassVar[bool] = False  # in one mini-batch each, so that there are no more than prompts

    @property
    def reads_advantages(self) -> bool:
        """Whether it reads a column ``advantages``, made before any policy has scored the tokens."""
        return False

    @abstractmethod
    def __call__(self, batch: Batch, *, num_minibatches: int, seed: int) -> Tensor: ...


class Ratio(Part, Protocol):
    """(View) -> log ratio [n] of current to old policy."""

    @abstractmethod
    def __call__(self, view: View) -> Tensor: ...


class Surrogate(Part, Protocol):
    """(View, log_ratio [n]) -> objective [n], to be maximised."""

    @abstractmethod
    def __call__(self, view: View, log_ratio: Tensor) -> Tensor: ...

    @abstractmethod
    def clipped(self, view: View, log_ratio: Tensor) -> Tensor:
        """Tokens [n] bool whose ratio is limited here (the metric ``clip_fraction``)."""
        ...


class Aggregate(Part, Protocol):
    """(View, objective [n]) -> scalar share of the mini-batch's objective."""

    @abstractmethod
    def __call__(self, view: View, objective: Tensor) -> Tensor: ...


class Regularizer(Part, Protocol):
    """(View) -> scalar share of a penalty, normalised by itself; sees every token, whatever its weight."""

    @abstractmethod
    def __call__(self, view: View) -> Tensor: ...


def on_policy(*names: str, updates_per_batch: int) -> dict[str, str]:
    """The inert entries of fields that act on a ratio other than 1, for ``Part.inert``."""
    if updates_per_batch > 1:
        return {}
    reason = (
        "one update per optimiser batch keeps every ratio at 1; set method.updates_per_batch to 2 or more"
    )
    return dict.fromkeys(names, reason)
