"""What a command line means, and what is refused before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException

from tokensweep.compose import Freezer, explain, freeze_run, register_components
from tokensweep.loss.method import build_method
from tokensweep.plan import freeze_job, make_plan
from tokensweep.sweepfile import Job, adhoc_sweep

register_components()


def test_a_frozen_config_is_plain_json_and_builds_the_same_method() -> None:
    frozen = freeze_run(["method=forking_tokens", "seed=3"])
    again: dict[str, Any] = json.loads(json.dumps(frozen))
    assert again == frozen
    assert build_method(again["method"]) == build_method(frozen["method"])


def test_the_held_out_suite_is_the_test_split_of_the_training_task() -> None:
    suites = freeze_run(["data=countdown", "eval.held_out=12"])["eval"]["suites"]
    assert suites["countdown"]["split"] == "test"
    assert suites["countdown"]["size"] == 12


def test_a_suite_with_a_file_takes_it_from_eval_path(tmp_path: Path) -> None:
    rows = [{"id": str(i), "problem": "1+1", "answer": "2"} for i in range(30)]
    (tmp_path / "aime25.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in (tmp_path, tmp_path / "aime25.jsonl"):
        suites = freeze_run(["eval=aime25", f"eval.path={path}"])["eval"]["suites"]
        assert suites["aime25"]["path"] == str(tmp_path / "aime25.jsonl")


def test_a_model_of_the_hub_keeps_its_id_and_a_folder_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def path(*overrides: str) -> str:
        model: dict[str, str] = freeze_run(["model=hf", *overrides])["model"]
        return model["path"]

    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    commit = f"model.commit={'a' * 40}"
    assert path("model.path=owner/name", commit) == path("model.path=owner/name") == "owner/name"
    assert path("model.path=models/mine", commit) == "models/mine"  # a commit means the hub
    assert path("model.path=models/mine") == path("model.path=./models/mine") == f"{tmp_path}/models/mine"
    assert path("model.path=./mine") == f"{tmp_path}/mine"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=0", "steps must be at least 1, got 0"),
        ("eval.tau=[1.5]", r"eval.tau must be in \(0, 1\], got 1.5"),
        ("eval.k=[16]", "eval.k must lie between 1 and eval.num_samples=8, got 16: pass@16 needs"),
        ("sampling.top_p=1.5", r"sampling.top_p must be in \(0, 1\], got 1.5"),
        ("compute.dtype=float8", "compute.dtype must be one of float32, bfloat16, got 'float8'"),
        ("method.token_weights.entropy.fraction=1.5", "fraction must be in"),
        ("data.max_tokens=3", "max_tokens must be at least"),
    ],
)
def test_a_value_out_of_range_is_refused_by_key(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        freeze_run(["method=forking_tokens", override])


@pytest.mark.parametrize(
    "override", ["nonsense=1", "method.ratio.q=1", "method.token_weights.entropy.side=up", "seed=x"]
)
def test_an_unknown_key_a_bad_enum_and_a_wrong_type_do_not_compose(override: str) -> None:
    with pytest.raises(HydraException, match=r"Could not override|Error merging override"):
        freeze_run(["method=forking_tokens", override])


def test_the_error_for_an_unknown_key_names_the_nearest_one() -> None:
    with pytest.raises(HydraException) as caught:
        freeze_run(["method.updates_per_bach=2"])
    assert "did you mean method.updates_per_batch" in explain(caught.value, command="train")


def test_a_key_that_a_schedule_drives_cannot_be_overridden() -> None:
    with pytest.raises(
        ValueError, match=r"method.ratio.p is driven by the schedule 'holder_p': change method.schedules"
    ):
        freeze_run(["method=holderpo_annealed", "method.ratio.p=1"])
    freeze_run(["method=holderpo_annealed", "~method.schedules.holder_p", "method.ratio.p=1"])


def test_an_off_policy_knob_on_policy_is_refused_with_the_reason() -> None:
    with pytest.raises(
        ValueError, match=r"method.ratio.p has no effect here: one update per optimiser batch"
    ):
        freeze_run(["method=holderpo", "method.updates_per_batch=1", "method.ratio.p=2"])


def test_a_fraction_beside_a_threshold_is_refused() -> None:
    overrides = ["method=forking_tokens", "method.token_weights.entropy.threshold=0.672"]
    freeze_run(overrides)
    with pytest.raises(ValueError, match=r"entropy.fraction has no effect here"):
        freeze_run([*overrides, "method.token_weights.entropy.fraction=0.5"])


def test_two_presets_for_one_place_of_a_map_are_refused_with_both_names() -> None:
    # Either would silently replace the other: both call their regularizer "entropy".
    with pytest.raises(
        ValueError, match=r"entropy_bonus and entropy_target both fill method.regularizers.entropy"
    ):
        freeze_run(
            [
                "method=[entropy_bonus,entropy_target]",
                "method/surrogate=ppo_clip",
                "method/aggregate=token_mean",
            ]
        )


def test_a_preset_after_one_that_starts_from_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"htpo starts from dapo.*: leave dapo out of the stack"):
        freeze_run(["method=[htpo,dapo]"])
    assert freeze_run(["method=[dapo,htpo]"])["method"]["surrogate"]["_component_"] == "method/surrogate/htpo"


def test_two_presets_with_other_values_in_one_place_are_refused_unless_they_are_given() -> None:
    # Both have the KL of the loss; archer's is of certain tokens only, half of its method.
    stack = "method=[archer,grpo_kl]"
    with pytest.raises(
        ValueError, match=r"archer and grpo_kl both fill method.regularizers.kl, with other values of"
    ):
        freeze_run([stack])
    keys = {"coef": 0.001, "unit": "token", "where": "certain"}
    decided = freeze_run([stack, *(f"method.regularizers.kl.{key}={value}" for key, value in keys.items())])
    assert decided["method"]["regularizers"]["kl"]["where"] == "certain"


def test_heal_without_two_domains_is_refused_before_anything_starts() -> None:
    with pytest.raises(
        ValueError, match=r"must compare problems of two domains, got Ops without any: take data=mixed"
    ):
        freeze_job(Job("", "heal", ("method=heal", "data=ops")), Freezer())


def test_two_presets_for_one_slot_are_refused_with_both_names() -> None:
    stack = "method=[forking_tokens,holderpo]"
    with pytest.raises(ValueError, match=r"forking_tokens and holderpo both fill the slot method/aggregate"):
        freeze_run([stack])
    freeze_run(["method=[dapo,forking_tokens]"])  # one starts from the other: nothing to decide
    method = freeze_run([stack, "method/aggregate=rollout_mean"])["method"]
    assert "entropy" in method["token_weights"]
    assert method["ratio"]["_component_"] == "method/ratio/holder"
    assert method["aggregate"]["_component_"] == "method/aggregate/rollout_mean"


def test_a_piece_of_a_map_slot_can_be_dropped_and_added() -> None:
    dropped = freeze_run(["method=forking_tokens", "~method.token_weights.entropy"])
    assert dropped["method"]["token_weights"] == {}
    added = freeze_run(
        [
            "method=dapo",
            "+method/token_weights@method.token_weights.low=entropy",
            "method.token_weights.low.side=low",
        ]
    )
    assert added["method"]["token_weights"]["low"]["side"] == "low"


def test_the_error_for_an_unknown_field_lists_the_fields_that_there_are() -> None:
    overrides = ["method=rloo", "method.token_rewards.kl.beta=1"]
    with pytest.raises(HydraException) as caught:
        freeze_run(overrides)
    explained = explain(caught.value, command="train", overrides=overrides)
    assert "method.token_rewards.kl has coef, estimator." in explained


def test_the_error_for_a_wrong_choice_lists_the_choices() -> None:
    with pytest.raises(HydraException) as caught:
        freeze_run(["method=rloo", "method.token_rewards.kl.estimator=k9"])
    assert "expected one of [k1, k2, k3]" in explain(caught.value, command="train")


def test_a_group_of_one_is_refused_where_rollouts_are_compared() -> None:
    with pytest.raises(
        ValueError, match=r"batch\.group_size must be at least 2 for the advantage LeaveOneOut"
    ):
        freeze_run(["method=rloo", "batch.group_size=1"])
    assert freeze_run(["method=reinforce_pp", "batch.group_size=1"])["batch"]["group_size"] == 1


@pytest.mark.parametrize("limit", ["sampling.top_p=0.9", "sampling.top_k=50"])
def test_a_correction_by_the_sampler_is_refused_where_it_draws_from_fewer_tokens(limit: str) -> None:
    with pytest.raises(
        ValueError, match=r"^token_weights\.tis must compare sampler and trainer over all tok"
    ):
        freeze_run(["method=[dapo,tis]", limit])
    assert freeze_run(["method=dapo", limit])["method"]["name"] == "dapo"
    assert freeze_run(["method=[dapo,tis]"])["method"]["token_weights"]["tis"]["cap"] == 2.0


def test_a_plan_explains_what_hydra_cannot_merge() -> None:
    sweep = adhoc_sweep([["method=rloo", "method.token_rewards.kl.beta=1"]], name="x", scale="tiny")
    with pytest.raises(ValueError, match=r"no key or group 'method\.token_rewards\.kl\.beta'"):
        make_plan(sweep)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["rollout=fake"],
            "method.sampling draws by a rule, and FakeEngine follows none: take rollout=torch",
        ),
        (
            ["sampling.top_p=0.9"],
            "method.sampling: CUTS draws uniformly from its survivors.*got 1, 0.9 and 0",
        ),
        (["batch.group_size=7"], "whole rollouts, got 0.5 of batch.group_size=7"),
        (["method.sampling.share=0", "method.sampling.delta=0.1"], "delta has no effect here: .*share=0"),
    ],
)
def test_sampling_rules_must_go_with_the_run(overrides: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        freeze_run(["method=mixed_cuts", *overrides])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["eval/rule=cuts", "rollout=fake"], "eval.rule draws by a rule, and FakeEngine follows none"),
        (["eval/rule=two_temperatures", "eval.temperature=0.6"], "eval.rule: .*temperature must be 1"),
        (
            ["eval/rule=two_temperatures", "eval.rule.high=nan"],
            "eval.rule.high must be a finite number, got nan",
        ),
        (
            ["eval/rule=two_temperatures", "eval.rule.low=inf"],
            "eval.rule.low must be a finite number, got inf",
        ),
        (["eval/rule=cuts", "eval.rule.top_k=0"], r"eval.rule \(eval/rule/cuts\): top_k must be at least 1"),
    ],
)
def test_the_rule_of_an_evaluation_must_go_with_it(overrides: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        freeze_run(overrides)


def test_an_engine_without_rules_takes_a_method_that_draws_nothing_by_one() -> None:
    frozen = freeze_run(["method=mixed_cuts", "rollout=fake", "method.sampling.share=0"])
    assert frozen["rollout"]["_component_"] == "rollout/fake"
