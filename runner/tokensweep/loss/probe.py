"""Probes: components that tell numbers of a batch and change no weight."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from tokensweep.loss.slots import Part
from tokensweep.loss.tables import Batch


class Probe(Part, Protocol):
    """(Batch) -> numbers by name, of a batch that has been trained on: the metrics ``probe/<key>/<name>``.

    The batch has the columns ``advantages`` and ``weights``, of the parts that read the old policy.
    """

    @abstractmethod
    def __call__(self, batch: Batch) -> Mapping[str, float]: ...


@dataclass(frozen=True, kw_only=True)
class States:
    """What the old policy's head makes of a few tokens."""

    rows: Tensor  # [m] int64, trained rows of the batch, ascending
    hidden: Tensor  # [m, H] states before the head
    pull: Tensor  # [m, V] gradient of each token's log-probability with respect to ``hidden @ weight.T``


@runtime_checkable
class StateProbe(Protocol):
    """A probe that also reads states of some tokens before the update."""

    def rows(self, batch: Batch) -> Tensor:
        """The trained rows [m] it reads, ascending; maybe none. Every rank must ask for the same."""
        ...

    def of_states(self, batch: Batch, states: States) -> Mapping[str, float]:
        """Numbers by name, next to those of the whole batch, whose columns are as for :class:`Probe`."""
        ...
