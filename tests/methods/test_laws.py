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
    "method=dapo +method/token_weights@method.token_weights.truncated=not_truncated",
    "method=rloo method.token_rewards.kl.estimator=k3",
    "method=reinforce_pp +method/token_rewards@method.token_rewards.kl=kl",
    "method=reinforce_pp_baseline method.advantage.unit=rollout",
    "method=gspo method/ratio=sequence_token",
    "method=[gspo,forking_tokens] method/aggregate=rollout_mean method/surrogate=gspo_clip",
    "method=[gmpo,forking_tokens] method/aggregate=geometric_mean method/surrogate=log_clip",
    "method=clip_cov method.token_weights.clip_cov.lowest=0.1 method.token_weights.clip_cov.share=0.1",
    "method=kl_cov method.regularizers.kl_cov.share=0.1 method.regularizers.kl_cov.scope=mini",
    "method=grpo_kl method.regularizers.kl.importance_weighted=true",
    "method=grpo_kl method.regularizers.kl.estimator=k1 method.regularizers.kl.unit=token",
    "method=steer method.token_weights.entropy_change.shape=linear",
    "method=steer_as_released method.token_weights.entropy_change.shape=linear",
    "method=steer method.token_weights.entropy_change.shuffled=true",
    "method=[forking_tokens,steer] method/aggregate=selected_mean",
    "method=stapo method.token_weights.spurious.probability=0.5",
    "method=stapo method.token_weights.spurious.probability=0.5 method.token_weights.spurious.silence=high",
    "method=stapo method.token_weights.spurious.probability=0.5 method.token_weights.spurious.silence=random",
    "method=stapo method.token_weights.spurious.probability=0.5 method.token_weights.spurious.pool=all",
    "method=stapo method.token_weights.spurious.quantile=null method.token_weights.spurious.probability=0.5",
    "method=stapo method.token_weights.spurious.probability=0.5 method.token_weights.spurious.scope=micro "
    "method.token_weights.spurious.policy=current method/aggregate=selected_mean_micro",
    "method=fipo method.advantage_shapers.future_kl.upward_only=false",
    "method=[forking_tokens,fipo] method/aggregate=selected_mean",
    "method=[dapo,tis]",
    "method=[gspo,tis] method.token_weights.tis.level=sequence",
    "method=[gmpo,mis] method.token_weights.mis.cap=20",
    "method=[dapo,mis] method.token_weights.mis.level=token method.token_weights.mis.cap=2",
    "method=[forking_tokens,icepop]",
    "method=[grpo_kl,icepop] method.token_weights.icepop.high=1.5",
    "method=[dapo,tis,geo_mask] method.token_weights.geo_mask.low=0.8 method.token_weights.geo_mask.high=1.3",
    "method=[mixed_cuts,tis] method.sampling.share=1",
    "method=[dapo,entropy_adv] method.advantage_shapers.entropy.policy=old",
    "method=dapo +method/probes@method.probes.flips=token_flips",
    "method=cancellation +method/advantage_shapers@method.advantage_shapers.signs=balanced_signs",
    "method=cancellation +method/advantage_shapers@method.advantage_shapers.sign=one_sign",
    "method=cancellation +method/probes@method.probes.signs=minibatch_signs",
    "method=cancellation +method/probes@method.probes.coupling=head_coupling",
    "method=cancellation +method/token_weights@method.token_weights.thin=balanced_rollouts",
    "method=opefo method.token_weights.flow.proxy=exact",
    "method=opefo method.token_weights.flow.sides=up",
    "method=[opefo,forking_tokens] method/aggregate=selected_mean method.updates_per_batch=1",
    "method=heal method.reward_terms.eda.min_len=3",
    "method=heal method.reward_terms.eda.min_len=3 method.reward_terms.eda.distance=level",
    "method=heal method.reward_terms.eda.min_len=0 method.reward_terms.eda.exclude_siblings=true",
    "method=[dapo,heal] method.reward_terms.eda.min_len=3 method.reward_terms.eda.apply_to=target",
    "method=shear method.advantage_shapers.shear.window=3 method.advantage_shapers.shear.stride=2",
    "method=shear method.advantage_shapers.shear.window=3 method.advantage_shapers.shear.stride=1"
    " method.advantage_shapers.shear.distance=mmd",
    "method=[dapo,shear] method.advantage_shapers.shear.window=4 method.advantage_shapers.shear.stride=2"
    " method.advantage_shapers.shear.distance=chamfer method.advantage_shapers.shear.renorm=group_mean",
    "method=[forking_tokens,shear] method.advantage_shapers.shear.window=4"
    " method.advantage_shapers.shear.stride=2 method.advantage_shapers.shear.distance=cosine",
    "method=explicit_uncertainty_verbal method.reward_terms.confidence.missing=lenient",
    "method=[forking_tokens,rlcr] method.reward_terms.verifier.weight=0.5",
    "method=explicit_uncertainty_token method.reward_terms.marker.repetition_penalty=1",
    "method=[forking_tokens,entropy_adv,kl_cov] method/surrogate=unclipped method/aggregate=selected_mean",
    "method=htpo method.surrogate.policy=old method.surrogate.drop_low=0.3 method.surrogate.drop_high=0.5",
    "method=htpo_as_released method.surrogate.rank_by=random",
    "method=[htpo,forking_tokens] method/surrogate=htpo method/aggregate=selected_mean",
    "method=[htpo,forking_tokens_as_released] method/surrogate=htpo method/aggregate=selected_mean_micro",
    "method=eapo method.advantage_shapers.eapo.scope=micro method.advantage_shapers.eapo.policy=current",
    "method=eapo method.advantage_shapers.eapo.off=[phr,nlr] method.advantage_shapers.eapo.shuffled=true",
    "method=eapo_quadrant method.token_weights.quadrant.keep=[nhr,plr] method/aggregate=selected_mean",
    "method=[eapo,eapo_quadrant]",
    "method=archer method.surrogate.rank_by=random method.regularizers.kl.where=random",
    "method=[archer,forking_tokens] method/surrogate=archer method/aggregate=selected_mean",
    "method=[archer,holderpo] method/surrogate=archer ~method.regularizers.kl",
    "method=grpo_kl method.regularizers.kl.where=uncertain method.regularizers.kl.policy=current",
    "method=hora +method/token_weights@method.token_weights.group=equal_prompts",
    "method=grpo_token_mean +method/token_weights@method.token_weights.group=equal_prompts "
    "method.token_weights.group.unit=token",
    "method=reasonmaxxer method.token_weights.gate.threshold=0.5",
    "method=reasonmaxxer ~method.regularizers.anchor method.token_weights.gate.threshold=0.5",
    "method=reasonmaxxer method.regularizers.anchor.everywhere=true",
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
