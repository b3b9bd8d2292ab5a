"""Reading stored rollouts and making the token table of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.analysis.tokens.made_up import make_rollouts

from tokensweep_analysis.tokens.stored import random_share, read_rollouts, stored_files
from tokensweep_analysis.tokens.table import token_table


def test_files_are_found_in_the_order_of_training(tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    for name in ("step-000020", "step-000003", ".step-000030.parquet.x"):
        (tmp_path / "rollouts" / f"{name}.parquet").touch()
    assert list(stored_files(tmp_path)) == [3, 20]


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "step-000001.parquet"
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match=r"step-000001.parquet cannot be read .* move it away"):
        read_rollouts(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weights": [1.0]}, "must have a value per token"),
        ({"old_entropy": [0.1, float("nan")]}, "must have finite entropies"),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, list[float]], reason: str
) -> None:
    path = tmp_path / "step-000001.parquet"
    make_rollouts([{"entropy": [0.1, 0.2], **change}]).to_parquet(path)
    with pytest.raises(ValueError, match=reason):
        read_rollouts(path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "step-000001.parquet"
    make_rollouts([{"entropy": [0.1]}]).drop(columns="weights").to_parquet(path)
    with pytest.raises(ValueError, match="lacks weights"):
        read_rollouts(path)


def test_a_random_share_keeps_order_and_limit() -> None:
    rollouts = make_rollouts([{"entropy": [0.1] * 10} for _ in range(50)])
    part = random_share(rollouts, max_tokens=100, seed=0)
    assert len(part) == 10
    assert part["group"].is_monotonic_increasing
    assert part["group"].tolist() != list(range(10))  # not the first ones
    assert random_share(rollouts, max_tokens=500, seed=0) is rollouts
    assert len(random_share(rollouts, max_tokens=3, seed=0)) == 1


def test_the_token_table_has_a_row_per_token_in_order() -> None:
    rollouts = make_rollouts(
        [
            {"entropy": [0.1, 0.2], "token_ids": [5, 6]},
            {"entropy": []},  # ended at once
            {"entropy": [0.3], "token_ids": [5], "grade": "wrong", "weights": [0.0]},
        ]
    )
    base = [np.array(each, dtype=np.float32) for each in ([1, 2], [], [3])]
    table = token_table(rollouts, pieces={5: "a", 6: "b"}, base_entropy=base)
    assert table["token"].tolist() == ["a", "b", "a"]
    assert table["position"].tolist() == [0, 1, 0]
    assert table["group"].tolist() == [0, 0, 2]
    assert table["base_entropy"].tolist() == [1, 2, 3]
    assert table["grade"].tolist() == ["correct", "correct", "wrong"]
    assert table["weight"].tolist() == [1, 1, 0]


def test_base_entropies_of_other_rollouts_are_refused() -> None:
    with pytest.raises(ValueError, match="a value per token, 1, got 2"):
        token_table(
            make_rollouts([{"entropy": [0.1]}]),
            pieces={0: "a"},
            base_entropy=[np.zeros(2, dtype=np.float32)],
        )
