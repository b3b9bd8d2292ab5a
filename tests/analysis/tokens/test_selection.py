"""Which tokens are of high entropy, by the policy and by the base model."""

from __future__ import annotations

import pytest
from tests.analysis.tokens.made_up import make_tokens

from tokensweep_analysis.tokens.selection import Rule, select


def test_the_top_share_is_rounded_up_and_ties_go_to_the_earlier_token() -> None:
    # ceil(0.3 * 7) = 3 of 7: the 0.9, and of three 0.5 the first two.
    table = make_tokens(entropy=[0.5, 0.1, 0.5, 0.9, 0.5, 0.0, 0.2])
    chosen = select(table, Rule(fraction=0.3))
    assert chosen["top"].tolist() == [True, False, True, True, False, False, False]
    assert chosen["kept"].tolist() == chosen["top"].tolist()  # the run trained all: a supposition


def test_a_share_that_floats_cannot_hold_is_not_rounded_up() -> None:
    # 0.07 * 100 = 7.000000000000001 in floats; seven tokens are meant.
    table = make_tokens(entropy=[float(number) for number in range(100)])
    assert select(table, Rule(fraction=0.07))["top"].sum() == 7


def test_rollout_scope_chooses_in_every_rollout() -> None:
    table = make_tokens(entropy=[0.9, 0.8, 0.2, 0.1], group=[0, 0, 1, 1])
    assert select(table, Rule(fraction=0.5, scope="rollout"))["top"].tolist() == [True, False, True, False]
    assert select(table, Rule(fraction=0.5))["top"].tolist() == [True, True, False, False]


def test_steps_are_chosen_in_by_themselves() -> None:
    table = make_tokens(entropy=[0.9, 0.8, 0.2, 0.1]).assign(step=[1, 1, 2, 2])
    assert select(table, Rule(fraction=0.5))["top"].tolist() == [True, False, True, False]


def test_the_runs_own_choice_is_read_from_its_weights() -> None:
    table = make_tokens(entropy=[0.9, 0.8, 0.2, 0.1], weight=[0.0, 1.0, 1.0, 0.0])
    high = select(table, Rule(kept_by_run=True, top_by_run="high"))
    assert high["kept"].tolist() == high["top"].tolist() == [False, True, True, False]
    low = select(table, Rule(kept_by_run=True, top_by_run="low"))
    assert low["kept"].tolist() == [False, True, True, False]
    assert low["top"].tolist() == [True, False, False, True]
    other = select(table, Rule(fraction=0.25, kept_by_run=True))  # weights that are of another method
    assert other["kept"].tolist() == [False, True, True, False]
    assert other["top"].tolist() == [True, False, False, False]


def test_the_base_model_gets_as_many_tokens_as_the_policy() -> None:
    table = make_tokens(entropy=[0.9, 0.8, 0.2, 0.1], base_entropy=[0.1, 0.7, 0.9, 0.2])
    assert select(table, Rule(fraction=0.5))["base_top"].tolist() == [False, True, True, False]


def test_a_threshold_holds_for_policy_and_base_alike() -> None:
    table = make_tokens(entropy=[0.9, 0.5, 0.2], base_entropy=[0.1, 0.6, 0.49])
    chosen = select(table, Rule(threshold=0.5))
    assert chosen["top"].tolist() == [True, True, False]
    assert chosen["base_top"].tolist() == [False, True, False]


def test_a_fraction_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\], got 0"):
        Rule(fraction=0.0)
