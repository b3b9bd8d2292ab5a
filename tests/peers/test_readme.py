"""README.md lists what is compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.peers import test_differences
from tests.peers.tables import Case
from tests.peers.test_trl import CASES as TRL
from tests.peers.test_verl import CASES as VERL

README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", [*VERL, *TRL], ids=lambda case: f"{case.ours} and {case.peer}")
def test_a_comparison_stands_in_the_table(case: Case) -> None:
    cells = case.row("TRL" if case in TRL else "verl", [(0.0, 0.0)])
    assert " | ".join(cells[:3]) in README, "run python tests/peers/table.py and look at the diff"


def test_every_named_difference_stands_in_the_list() -> None:
    proofs = [name for name in vars(test_differences) if name.startswith("test_")]
    assert all(f"(`{name}`)" in README for name in proofs), "run python tests/peers/table.py"
