"""Runs are the same run exactly when nothing that can change their numbers differs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tokensweep.compose import freeze_run, register_components
from tokensweep.entries import merge_entries
from tokensweep.evaluate import EvalSpec
from tokensweep.identity import digest, identity_of, run_id, verify
from tokensweep.loss.method import build_method
from tokensweep.plan import plan_evals
from tokensweep.registry import KIND, build, component, defaults_of
from tokensweep.rollout.rules import Cuts, TwoTemperatures, rule_of

register_components()


def _identity(*overrides: str) -> str:
    return digest(identity_of(freeze_run(overrides)))


@pytest.mark.parametrize(
    "override",
    [
        "eval.num_samples=16",
        "compute.threads=2",
        "jobs=3",
        "store=elsewhere",
        "sweep=x",
        "checkpoint.every=2",
        "scale=tiny",
    ],
)
def test_where_and_how_it_is_evaluated_is_no_part_of_a_run(override: str) -> None:
    assert _identity(override) == _identity()


@pytest.mark.parametrize(
    "override",
    [
        *("seed=1", "steps=7", "optim.lr=1e-5", "method=cispo", "method.updates_per_batch=2", "data=order"),
        *("model.seed=1", "sampling.temperature=0.9", "compute.dtype=bfloat16"),
        "+method.schedules.x={path:surrogate.high,start:0.1,end:0.2,steps:5}",
    ],
)
def test_what_can_change_a_number_is_part_of_a_run(override: str) -> None:
    assert _identity(override) != _identity()


def test_a_value_spelled_out_at_its_default_changes_nothing() -> None:
    assert _identity("method=forking_tokens", "method.token_weights.entropy.fraction=0.2") == _identity(
        "method=forking_tokens"
    )
    assert _identity("method.updates_per_batch=4") == _identity()  # scale tiny says 4 already


def test_a_config_from_before_there_were_probes_is_the_run_that_it_was() -> None:
    config = freeze_run([])
    old = {**config, "method": {key: value for key, value in config["method"].items() if key != "probes"}}
    assert digest(identity_of(old)) == _identity()
    assert build_method(old["method"]).probes == {}
    assert _identity("+method/probes@method.probes.flips=token_flips") != _identity()  # it has more to tell


@pytest.mark.parametrize("preset", ["dapo", "forking_tokens", "grpo_kl"])
def test_a_config_from_before_a_slot_is_the_same_run_as_with_its_neutral_choice(
    preset: str,
) -> None:
    frozen = freeze_run([f"method={preset}"])
    before = {**frozen, "method": {key: node for key, node in frozen["method"].items() if key != "sampling"}}
    assert frozen["method"]["sampling"] == {KIND: "method/sampling/plain"}
    assert identity_of(before) == identity_of(frozen)
    assert build_method(before["method"]) == build_method(frozen["method"])
    cuts = freeze_run([f"method={preset}", "method/sampling=mixed_cuts"])
    assert identity_of(cuts) != identity_of(frozen)


def test_the_label_of_a_method_is_no_part_of_a_run() -> None:
    assert _identity("method.name=other", "method.paper=x") == _identity()


def test_the_size_of_the_answer_space_is_no_part_of_a_run() -> None:
    base = ("data=aime24", "data.path=x.jsonl", "eval.held_out=0")
    assert _identity(*base, "data.answer_space=null") == _identity(*base)


def test_the_order_in_which_advantages_are_shaped_is_part_of_a_run() -> None:
    config = freeze_run(["method=entropy_adv"])
    node = config["method"]["advantage_shapers"]["entropy"]

    def identity(*names: str) -> str:
        method = {**config["method"], "advantage_shapers": {name: node for name in names}}
        return digest(identity_of({**config, "method": method}))

    assert identity("a", "b") != identity("b", "a")


def test_a_single_shaper_has_no_order_to_tell() -> None:
    assert "shaper_order" not in identity_of(freeze_run(["method=entropy_adv"]))


def test_content_and_code_are_part_of_the_run_id() -> None:
    base = {"data_hash": "d", "model_revision": "m", "code": "c"}
    ids = {run_id({"seed": 0}, **{**base, key: "other"}) for key in base}
    assert len(ids | {run_id({"seed": 0}, **base)}) == 4
    other_code = run_id({"seed": 0}, **{**base, "code": "other"})
    assert other_code.partition("-")[0] == run_id({"seed": 0}, **base).partition("-")[0]


def test_an_evaluation_is_the_same_whatever_the_number_of_samples() -> None:
    def evals(*overrides: str) -> list[dict[str, Any]]:
        config = freeze_run(overrides)
        return plan_evals(config, subject="run", step=4, source_of=lambda node: (build(node), "hash"))

    few, many, cold = evals(), evals("eval.num_samples=64"), evals("eval.temperature=0.5")
    assert few[0]["eval_id"] == many[0]["eval_id"] != cold[0]["eval_id"]


def test_a_sampling_rule_is_part_of_an_evaluation_only_where_there_is_one() -> None:
    def evals(*overrides: str, without: bool = False) -> dict[str, Any]:
        config = freeze_run(overrides)
        if without:  # as a run from before there were rules was frozen
            del config["eval"]["rule"]
        (entry,) = plan_evals(config, subject="run", step=4, source_of=lambda node: (build(node), "hash"))
        return entry

    none, two = evals(), evals("eval/rule=two_temperatures")
    hot, cuts = evals("eval/rule=two_temperatures", "eval.rule.high=1.4"), evals("eval/rule=cuts")
    assert none == evals(without=True)
    assert "rule" not in none
    assert len({each["eval_id"] for each in (none, two, hot, cuts)}) == 4
    specs = [EvalSpec.of(each, engine={KIND: "rollout/torch"}) for each in (none, two, hot, cuts)]
    assert len({spec.decode_hash for spec in specs}) == 4
    assert [rule_of(spec.rules) for spec in specs] == [
        None,
        TwoTemperatures(),
        TwoTemperatures(high=1.4),
        Cuts(),
    ]
    assert _identity("eval/rule=cuts") == _identity()


def test_a_changed_frozen_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"steps": 2}))
    (tmp_path / "plan.json").write_text(json.dumps({"config_sha": digest({"steps": 2})}))
    assert verify(tmp_path) == {"steps": 2}
    (tmp_path / "config.json").write_text(json.dumps({"steps": 3}))
    with pytest.raises(ValueError, match=r"config.json was changed after it was planned"):
        verify(tmp_path)
    (tmp_path / "config.json").write_text('{"steps": ')
    with pytest.raises(ValueError, match=r"config.json is damaged .* delete plan.json in its folder"):
        verify(tmp_path)


def test_earlier_seeds_of_an_arm_stay_until_the_arm_means_something_else() -> None:
    def row(arm: str, seed: int, *overrides: str) -> dict[str, Any]:
        return {
            "setting": "ops",
            "arm": arm,
            "seed": seed,
            "overrides": list(overrides),
            "run_id": f"{arm}{seed}",
        }

    known = [row("a", 0, "x=1"), row("a", 1, "x=1"), row("b", 0, "y=1")]
    more_seeds = merge_entries(known, [row("a", 2, "x=1")])
    assert [r["run_id"] for r in more_seeds] == ["a0", "a1", "b0", "a2"]
    redefined = merge_entries(known, [row("a", 0, "x=2")])
    assert [r["run_id"] for r in redefined] == ["b0", "a0"]


def test_a_component_that_is_declared_again_has_its_new_defaults() -> None:
    for default in (1, 2):

        @component("nowhere", "twice")
        @dataclass(frozen=True)
        class Twice:
            size: int = default

        assert defaults_of({KIND: "nowhere/twice"}) == {KIND: "nowhere/twice", "size": default}
