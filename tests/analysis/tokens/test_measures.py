"""The numbers of the analysis, against hand calculation."""

from __future__ import annotations

from math import isnan

import pandas as pd
import pytest
from tests.analysis.tokens.made_up import make_tokens

from tokensweep_analysis.tokens.findings import coarser
from tokensweep_analysis.tokens.measures import by_position, change_by_base, overlap, percentiles, top_tokens

approx = pytest.approx


def test_percentiles_and_shares_of_eleven_tokens() -> None:
    # Entropies 0.0, 0.1 ... 1.0: the percentile p is p / 100. One of 11 is below 0.01 nats. The top 20 % are
    # ceil(2.2) = 3 tokens with 1.0 + 0.9 + 0.8 of 5.5 nats.
    table = make_tokens(entropy=[number / 10 for number in range(11)])
    row = percentiles(table).iloc[0]
    assert (row["p50"], row["p80"], row["p99"], row["mean"]) == approx((0.5, 0.8, 0.99, 0.5))
    assert row["below_0_01"] == approx(1 / 11)
    assert row["top_20_share"] == approx(2.7 / 5.5)


def test_the_last_row_of_percentiles_is_of_all_steps() -> None:
    table = pd.concat([make_tokens(1, entropy=[0.0]), make_tokens(2, entropy=[1.0, 2.0])])
    found = percentiles(table)
    assert found["tokens"].tolist() == [1, 2, 3]
    assert found["p50"].tolist() == [0.0, 1.5, 1.0]
    assert pd.isna(found["step"].iloc[-1])
    assert isnan(found["top_20_share"].iloc[0])  # no entropy, no share of it


def test_tokens_are_listed_by_how_often_they_are_above() -> None:
    # a: 2 of 3 above, mean (1 + 1 + 0.1) / 3 = 0.7; b: 1 of 2; c occurs once, too seldom.
    table = make_tokens(
        token_id=[7, 7, 7, 8, 8, 9],
        token=list("aaabbc"),
        entropy=[1.0, 1.0, 0.1, 1.0, 0.0, 5.0],
        top=[True, True, False, True, False, True],
    )
    found = top_tokens(table, min_count=2)
    assert found["token"].tolist() == ["a", "b"]
    assert found["above"].tolist() == [2, 1]
    assert found["above_share"].tolist() == approx([2 / 3, 1 / 2])
    assert found["mean_entropy"].tolist() == approx([0.7, 0.5])


def test_overlap_of_four_and_three_of_ten_tokens() -> None:
    # A = 0 1 2 3, B = 2 3 4: both hold 2 of A's 4 and of the 5 in either; 3 of 10 at random.
    table = make_tokens(
        top=[number < 4 for number in range(10)], base_top=[2 <= number < 5 for number in range(10)]
    )
    row = overlap(table).iloc[0]
    assert (row["overlap"], row["jaccard"], row["chance"]) == approx((0.5, 0.4, 0.3))
    assert isnan(row["overlap_low"])  # one prompt: nothing to draw from


def test_the_interval_draws_whole_prompts() -> None:
    # One prompt overlaps wholly, the other not at all: a quarter of the draws has the first twice, a quarter
    # the second twice, so 95 % of them reach from 0 to 1.
    table = make_tokens(group=[0, 0, 1, 1], top=[True] * 4, base_top=[True, True, False, False])
    row = overlap(table, seed=1).iloc[0]
    assert (row["overlap_low"], row["overlap"], row["overlap_high"]) == (0.0, 0.5, 1.0)
    # All prompts alike: no draw differs.
    alike = make_tokens(group=[0, 0, 1, 1], top=[True] * 4, base_top=[True, False, True, False])
    row = overlap(alike).iloc[0]
    assert (row["overlap_low"], row["overlap_high"]) == (0.5, 0.5)
    assert (row["jaccard_low"], row["jaccard_high"]) == (0.5, 0.5)


def test_the_same_seed_gives_the_same_interval() -> None:
    table = make_tokens(group=[0, 1, 2, 3, 3], top=[True] * 5, base_top=[True, False, True, False, True])
    pd.testing.assert_frame_equal(overlap(table, seed=3), overlap(table, seed=3))


def test_change_by_bin_of_base_entropy() -> None:
    # Ten tokens of base 0.0 to 0.9, out of order; the two highest double: 0.85 -> 1.70 on average.
    base = [0.9, 0.0, 0.1, 0.2, 0.3, 0.8, 0.4, 0.5, 0.6, 0.7]
    entropy = [2 * each if each >= 0.8 else each for each in base]
    found = change_by_base(make_tokens(entropy=entropy, base_entropy=base), bins=5)
    assert found["tokens"].tolist() == [2] * 5
    assert found["base_entropy"].tolist() == approx([0.05, 0.25, 0.45, 0.65, 0.85])
    assert found["change"].tolist() == approx([0, 0, 0, 0, 0.85])
    assert found["relative"].iloc[-1] == approx(1.0)
    assert found["to"].tolist() == [20, 40, 60, 80, 100]


def test_bins_of_a_number_that_does_not_divide() -> None:
    # Ranks 0, 1, 2 of three tokens in two bins: floor(r * 2 / 3) = 0, 0, 1.
    found = change_by_base(make_tokens(entropy=[1.0, 1.0, 1.0], base_entropy=[1.0, 2.0, 3.0]), bins=2)
    assert found["tokens"].tolist() == [2, 1]


def test_coarser_bins_are_those_of_the_tokens() -> None:
    base = [((7 * number) % 20) / 10 for number in range(20)]
    table = make_tokens(entropy=[each**2 for each in base], base_entropy=base)
    fine, coarse = change_by_base(table, bins=20), change_by_base(table, bins=5)
    pd.testing.assert_frame_equal(coarser(fine, bins=5), coarse, check_dtype=False)


def test_positions_are_taken_together_in_ranges_of_one_width() -> None:
    # The longest rollout has 5 tokens, so two ranges are 3 wide: positions 0 to 2 and 3 to 4.
    table = make_tokens(
        entropy=[1.0, 2.0, 3.0, 4.0, 6.0, 6.0],
        position=[0, 1, 2, 3, 4, 0],
        kept=[True, False, False, False, True, True],
    )
    found = by_position(table, bins=2)
    assert found[["from", "to", "tokens"]].to_numpy().tolist() == [[0, 3, 4], [3, 6, 2]]
    assert found["entropy"].tolist() == approx([3.0, 5.0])
    assert found["kept_share"].tolist() == approx([0.5, 0.5])


@pytest.mark.parametrize("bins", [1, 20])
def test_one_token_has_one_range(bins: int) -> None:
    found = by_position(make_tokens(entropy=[0.5], kept=[True]), bins=bins)
    assert found["tokens"].tolist() == [1]
