"""What came of a step's sampling so far: all that an allocation decides by."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """The step as it stands between two rounds of sampling."""

    round: int = 0  # rounds done
    num_prompts: int  # groups that a step trains
    group_size: int  # rollouts of a prompt, on average where groups may differ
    grades: tuple[
        Tensor, ...
    ] = ()  # each [G], 1 for correct, of every prompt drawn, in the order of sampling
