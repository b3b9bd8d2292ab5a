"""Every preset, and every component in some method, keeps the laws."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tokensweep.loss.laws import LAWS
from tokensweep.loss.method import MAP_SLOTS, SINGLE_SLOTS, Method, at_step
from tokensweep.paths import conf_dir
from tokensweep.registry import components

PRESETS = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))

# Overrides that bring in what no preset has, and stacks of presets.
VARIANTS = (
    "method=[dapo,holderpo]",
    "method=[dapo,holderpo_annealed]",
    "method=[holderpo_token,forking_tokens] method/aggregate=holder_token",
    "method=[holderpo,forking_tokens]",
    "method=[cispo,forking_tokens] method/surrogate=cispo",
    "method=dapo method/surrogate=cispo_masked",
    "method=dapo method/surrogate=cispo_masked method.surrogate.is_cap=1.1",
    "method=grpo method/advantage=sample_std",
    "method=grpo method.advantage.std=none",
    "method=forking_tokens method/aggregate=token_mean",
    "method=forking_tokens method/aggregate=rollout_mean",
    "method=forking_tokens method/aggregate=selected_mean_micro",
    "method=forking_tokens method.token_weights.entropy.side=low",
    "method=forking_tokens method.token_weights.entropy.side=random",
    "method=forking_tokens method.token_weights.entropy.threshold=0.5",
    "method=forking_tokens method.token_weights.entropy.scope=rollout",
    "method=forking_tokens method.token_weights.entropy.scope=group",
    "method=forking_tokens method.token_weights.entropy.scope=mini",
    "method=forking_tokens method.token_weights.entropy.scope=micro",
)
CASES = [f"method={preset}" for preset in PRESETS] + list(VARIANTS)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("overrides", CASES)
def test_every_method_keeps_the_laws(overrides: str, law: str, method_of: Callable[..., Method]) -> None:
    method = method_of(*overrides.split())
    for step in (0, 250, 500) if method.schedules else (0,):
        LAWS[law](at_step(method, step))


def test_the_cases_reach_every_component(method_of: Callable[..., Method]) -> None:
    used = {type(part) for case in CASES for _, part in method_of(*case.split()).parts()}
    registered = {cls for slot in SINGLE_SLOTS + MAP_SLOTS for cls in components(f"method/{slot}").values()}
    ours = {cls for cls in registered if cls.__module__.startswith("tokensweep.methods")}
    assert ours <= used
