"""A parameter is the same after a trip through a file."""

from __future__ import annotations

import json

import pytest

from tokensweep.search.space import Parameter


@pytest.mark.parametrize(
    "one",
    [
        Parameter(key="a", low=0.0, high=1.0),
        Parameter(key="b", low=-2.0, high=0.0),
        Parameter(key="c", low=0, high=8, integer=True, step=2),
        Parameter(key="d", low=1e-6, high=1e-3, log=True),
        Parameter(key="e", choices=(False, 0.5, None, "x"), when={"f": (0, 2)}),
    ],
)
def test_a_parameter_survives_json_also_with_an_end_at_zero(one: Parameter) -> None:
    assert Parameter.from_json(json.loads(json.dumps(one.as_json()))) == one
