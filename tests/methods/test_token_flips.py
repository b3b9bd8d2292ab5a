"""The probe of token flips, arXiv:2605.08666, on numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare
from tokensweep.loss.slots import TokenWeight
from tokensweep.loss.tables import Batch, View, pack
from tokensweep.methods.token_flips import TokenFlips, outcome_sign


@pytest.fixture
def batch() -> Batch:
    """A group of one right and one wrong rollout, which share token 5, and a group without a signal."""
    made = pack(
        [[1]] * 4,
        completions=[[5, 6, 6], [5, 7], [5, 7], [6]],
        prompt_of=[0, 0, 1, 1],
        accuracy=[1, 0, 1, 1],
        truncated=[False] * 4,
        max_tokens=3,
    )
    old = torch.tensor([0.1, 0.9, 0.8, 0.2, 0.6, 0.5, 0.5, 0.5], dtype=torch.float64).log()
    change = torch.tensor([0.2, 0.3, -0.1, 0.4, -0.5, 9, 9, 9], dtype=torch.float64)
    return made.with_columns(old_logprobs=old, new_logprobs=old + change)


def test_tokens_are_counted_by_the_sign_of_their_rollout(batch: Batch) -> None:
    told = TokenFlips()(batch)
    assert told["positive/boosted_fraction"] == pytest.approx(2 / 3)  # 0.2 0.3 -0.1
    assert told["negative/boosted_fraction"] == pytest.approx(1 / 2)  # 0.4 -0.5
    assert told["flipped_fraction"] == pytest.approx(2 / 5)  # -0.1 in the right, 0.4 in the wrong rollout


def test_cells_are_of_shared_ids_and_of_confidence(batch: Batch) -> None:
    told = TokenFlips()(batch)
    fractions = {name: value for name, value in told.items() if name.endswith("token_fraction")}
    assert fractions == pytest.approx(
        {
            "shared/low/token_fraction": 2 / 5,  # both 5s, of probability 0.1 and 0.2
            "shared/high/token_fraction": 0,
            "positive_only/low/token_fraction": 0,
            "positive_only/high/token_fraction": 2 / 5,  # both 6s, 0.9 and 0.8
            "negative_only/low/token_fraction": 0,
            "negative_only/high/token_fraction": 1 / 5,  # 7, 0.6
        }
    )
    assert told["shared/low/change"] == pytest.approx(0.3)
    assert told["positive_only/high/change"] == pytest.approx(0.1)
    assert told["positive_only/high/boosted_fraction"] == pytest.approx(1 / 2)
    assert told["negative_only/high/change"] == pytest.approx(-0.5)
    assert "shared/high/change" not in told


def test_the_border_of_confidence_can_be_moved(batch: Batch) -> None:
    told = TokenFlips(confident=0.15)(batch)
    assert told["shared/low/token_fraction"] == pytest.approx(1 / 5)
    assert told["shared/high/change"] == pytest.approx(0.4)


def test_a_batch_without_signal_has_nothing_to_tell(batch: Batch) -> None:
    assert TokenFlips()(replace(batch, rewards=torch.ones(4))) == {}


def test_rollouts_have_the_sign_of_their_reward_in_the_group(batch: Batch) -> None:
    graded = replace(batch, rewards=torch.tensor([0.2, 0.1, 0.7, 0.7]))
    assert outcome_sign(graded).tolist() == [1, -1, 0, 0]


def test_a_probe_changes_neither_what_is_needed_nor_the_loss(method_of: Callable[..., Method]) -> None:
    plain = method_of("method=grpo")
    probed = method_of("method=grpo", "+method/probes@method.probes.flips=token_flips")
    assert probed.probes == {"flips": TokenFlips()}
    assert probed.needs() == plain.needs()
    assert probed.needs_after() == {"new_logprobs"}
    assert plain.needs_after() == frozenset()
    assert probed.guarantees() == plain.guarantees()


def test_what_comes_after_the_update_is_for_probes_only(
    batch: Batch, method_of: Callable[..., Method]
) -> None:
    late = replace(method_of("method=grpo"), token_weights={"late": _Late()})
    with pytest.raises(ValueError, match="a column 'new_entropy' must exist"):
        prepare(late, batch)


class _Late(TokenWeight):
    """A weight that wants to know the future."""

    needs: ClassVar[frozenset[str]] = frozenset({"new_entropy"})

    def __call__(self, view: View) -> Tensor:
        return view.columns["new_entropy"]


@pytest.mark.parametrize("confident", [0.0, 1.0, math.nan])
def test_a_border_outside_of_probabilities_is_refused(confident: float) -> None:
    with pytest.raises(ValueError, match=r"confident must be in \(0, 1\)"):
        TokenFlips(confident=confident)
