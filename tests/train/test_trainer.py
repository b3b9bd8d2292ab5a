"""A whole run in this process: what it learns, says and leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tokensweep.ledger import Attempt, read_metrics
from tokensweep.loss.tables import View
from tokensweep.train.metrics import DENOMINATORS, FAMILIES
from tokensweep.train.setup import DataError
from tokensweep.train.trainer import TrainResult, run_training
from tokensweep.train.update import NonFiniteError

Config = dict[str, Any]
Make = Callable[..., Config]


def train(config: Config, run_dir: Path) -> TrainResult:
    with Attempt.open(run_dir) as attempt:
        return run_training(config, run_dir, attempt, cache=run_dir.parent / "models")


def column(run_dir: Path, name: str) -> list[float]:
    return [row["metrics"][name] for row in read_metrics(run_dir)]


def test_the_reward_rises_on_a_task_that_is_easy_to_learn(tmp_path: Path, small_config: Make) -> None:
    # Half of the answers are right at first. 16 x 8 rollouts have a standard error of 4 points.
    config = small_config(
        steps=25,
        data={"_component_": "data/test_even", "size": 8},
        sampling__max_tokens=2,
        checkpoint__every=25,
    )
    config["batch"] = {"prompts": 16, "group_size": 8, "micro_tokens": 1024}
    train(config, tmp_path / "run")
    rewards = column(tmp_path / "run", "reward")
    assert sum(rewards[:2]) / 2 < 0.7
    assert sum(rewards[-3:]) / 3 > 0.9


def test_the_same_config_gives_the_same_run(tmp_path: Path, small_config: Make) -> None:
    first, again = (train(small_config(), tmp_path / name) for name in ("first", "again"))
    assert _weights(first) == _weights(again)


def test_another_seed_gives_another_run(tmp_path: Path, small_config: Make) -> None:
    first, other = (train(small_config(seed=seed), tmp_path / str(seed)) for seed in (0, 1))
    assert _weights(first) != _weights(other)


def test_no_global_random_state_is_read_or_moved(tmp_path: Path, small_config: Make) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train(small_config(), tmp_path / "first")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert _weights(train(small_config(), tmp_path / "second")) == _weights(first)


def test_every_metric_says_what_it_is_a_rate_of(tmp_path: Path, small_config: Make) -> None:
    clip = {"path": "surrogate.high", "start": 0.2, "end": 0.3, "steps": 10}
    config = small_config(method__schedules={"clip": clip})
    train(config, tmp_path / "run")
    names = {name for row in read_metrics(tmp_path / "run") for name in row["metrics"]}
    assert {name for name in names if not name.startswith(tuple(FAMILIES))} == set(DENOMINATORS)
    assert column(tmp_path / "run", "schedule/clip") == pytest.approx([0.2, 0.21])


def test_a_correction_for_the_sampler_does_nothing_where_sampler_and_trainer_agree(
    tmp_path: Path, small_config: Make
) -> None:
    corrections: dict[str, Config] = {
        "tis": {"cap": 1.5},
        "mis": {"cap": 1.5, "level": "sequence"},
        "icepop": {},
    }
    train(small_config(), tmp_path / "plain")
    for name, fields in corrections.items():
        weight = {name: {"_component_": f"method/token_weights/{name}", **fields}}
        train(small_config(method__token_weights=weight), tmp_path / name)
        assert column(tmp_path / name, "loss/kept_fraction") == [1.0, 1.0]
        for metric in ("grad_norm", "reward"):
            expected = column(tmp_path / "plain", metric)
            assert column(tmp_path / name, metric) == pytest.approx(expected, rel=1e-4)


def test_a_step_says_how_fast_its_phases_were(tmp_path: Path, small_config: Make) -> None:
    train(small_config(), tmp_path / "run")
    metrics = next(row["metrics"] for row in read_metrics(tmp_path / "run"))
    for rate, tokens, phase in (
        ("generate", "tokens/generated", "generate"),
        ("score", "tokens/trained", "old_pass"),
        ("update", "tokens/updated", "update"),
    ):
        assert metrics[f"throughput/{rate}_tokens_per_s"] == pytest.approx(
            metrics[tokens] / metrics[f"time/{phase}_s"]
        )
    assert "throughput/mfu" not in metrics  # on a CPU
    assert metrics["time/generate_s"] + metrics["time/grade_s"] < metrics["time/rollout_s"]
    assert metrics["time/sync_s"] > 0


def test_a_coefficient_is_remembered_and_acts_one_step_later(tmp_path: Path, small_config: Make) -> None:
    # The entropy of random weights is far below 9 nats: the coefficient is 0, 0.1, 0.2 in the three steps.
    bonus = {"_component_": "method/regularizers/entropy_target", "target": 9.0, "step": 0.1}
    train(small_config(steps=3, method__regularizers={"entropy": bonus}), tmp_path / "run")
    kept = column(tmp_path / "run", "memory/regularizers.entropy.coef")
    assert kept == pytest.approx([0.1, 0.2, 0.3])
    penalties = column(tmp_path / "run", "loss/regularizer/entropy")
    assert penalties[0] == 0
    assert penalties[1] == pytest.approx(-0.1 * column(tmp_path / "run", "entropy/mean")[1], rel=0.01)


def test_a_weight_may_need_a_sum_over_the_vocabulary(tmp_path: Path, small_config: Make) -> None:
    flow = {"_component_": "method/token_weights/entropy_flow", "proxy": "exact"}
    train(small_config(method__token_weights={"flow": flow}), tmp_path / "run")
    assert column(tmp_path / "run", "loss/ratio") == [1.0, 1.0]  # one update: what it predicts is the step
    assert min(column(tmp_path / "run", "grad_norm")) > 0


def test_a_probe_sees_the_policy_after_the_update_and_changes_nothing(
    tmp_path: Path, small_config: Make
) -> None:
    probe = {name: {"_component_": f"method/probes/{name}"} for name in ("token_flips", "head_coupling")}
    plain = train(small_config(), tmp_path / "plain")
    probed = train(small_config(method__probes=probe), tmp_path / "probed")
    assert _weights(probed) == _weights(plain)
    rows = [row["metrics"] for row in read_metrics(tmp_path / "probed")]
    for row in rows:  # a step along the gradient raises the right answers and lowers the wrong ones
        flipped = row["probe/token_flips/flipped_fraction"]
        assert 0 < row["probe/token_flips/positive/boosted_fraction"] <= 1
        assert flipped < 0.5
        assert 0 < row["probe/head_coupling/coupled_fraction"] < 1
        assert row["time/probe_s"] > 0
    assert not any(
        name.startswith(("probe/", "time/probe")) for name in read_metrics(tmp_path / "plain")[0]["metrics"]
    )


def test_the_reference_is_the_policy_that_the_run_started_from(tmp_path: Path, small_config: Make) -> None:
    # One update per batch: in the first step the policy is its own reference.
    penalty = {"_component_": "method/regularizers/kl", "coef": 1.0, "unit": "token"}
    cost = {"_component_": "method/token_rewards/kl", "coef": 1.0}
    config = small_config(steps=2, method__regularizers={"kl": penalty}, method__token_rewards={"kl": cost})
    train(config, tmp_path / "run")
    first, second = column(tmp_path / "run", "loss/regularizer/kl")
    assert first == pytest.approx(0, abs=1e-6)
    assert second > 1e-4
    rewards, grades = (column(tmp_path / "run", name) for name in ("reward", "accuracy"))
    assert rewards[0] == pytest.approx(grades[0], abs=1e-5)
    assert rewards[1] < grades[1] - 1e-4


def test_the_learning_rate_warms_up_in_a_straight_line(tmp_path: Path, small_config: Make) -> None:
    train(small_config(steps=4, optim__lr=1e-3, optim__warmup_steps=2), tmp_path / "run")
    assert column(tmp_path / "run", "lr") == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3])


def test_the_sampler_and_the_trainer_agree_on_the_logprobs(tmp_path: Path, small_config: Make) -> None:
    train(small_config(), tmp_path / "run")
    assert max(column(tmp_path / "run", "mismatch/max")) < 1e-5


def test_logprobs_of_a_truncated_sampler_are_not_compared(tmp_path: Path, small_config: Make) -> None:
    train(small_config(sampling__top_k=5), tmp_path / "run")
    assert "mismatch/max" not in read_metrics(tmp_path / "run")[0]["metrics"]


def test_a_step_without_a_kept_group_updates_nothing_and_says_so(tmp_path: Path, small_config: Make) -> None:
    # One rollout per prompt: no group can have two grades.
    config = small_config(batch__group_size=1, steps=1, checkpoint__every=1)
    config["method"]["allocation"] = {"_component_": "method/allocation/dynamic_sampling", "max_rounds": 2}
    result = train(config, tmp_path / "run")
    metrics = read_metrics(tmp_path / "run")[0]["metrics"]
    assert (metrics["updates"], metrics["skipped_updates"], metrics["sampled/discarded_groups"]) == (0, 1, 6)
    assert "reward" not in metrics
    start = next((tmp_path / "models").glob("*/model.safetensors"))
    assert _weights(result) == start.read_bytes()


def test_a_loss_that_is_no_number_stops_the_run_before_the_step(
    tmp_path: Path, small_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokensweep.methods.grpo import PPOClip

    monkeypatch.setattr(PPOClip, "__call__", lambda self, view, log_ratio: log_ratio * torch.nan)
    with pytest.raises(NonFiniteError, match="the loss of a micro-batch is nan"):
        train(small_config(), tmp_path / "run")


def test_a_gradient_that_is_infinite_stops_the_run_before_the_step(
    tmp_path: Path, small_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokensweep.methods.grpo import PPOClip

    def steep(self: PPOClip, view: View, log_ratio: torch.Tensor) -> torch.Tensor:
        return log_ratio.abs().sqrt() * view.advantages  # infinite slope at ratio 1

    monkeypatch.setattr(PPOClip, "__call__", steep)
    with pytest.raises(NonFiniteError, match=r"the gradient norm is (nan|inf): lower optim\.lr"):
        train(small_config(), tmp_path / "run")


def test_problems_that_cannot_be_used_are_a_data_error(tmp_path: Path, small_config: Make) -> None:
    config = small_config(data={"_component_": "data/test_even", "spoilt": True})
    with pytest.raises(DataError, match="the problems are spoilt: fetch them again"):
        train(config, tmp_path / "run")


def test_problems_with_long_prompts_are_never_drawn_and_counted(tmp_path: Path, small_config: Make) -> None:
    # The prompts are "0=" to "11=": ten of two characters, which are tokens, and two of three.
    limit = {"_component_": "prompt/model", "max_tokens": 2, "over_limit": "drop"}
    config = small_config(data={"_component_": "data/test_even", "size": 12}, prompt=limit)
    train(config, tmp_path / "run")
    assert column(tmp_path / "run", "sampled/dropped_prompts") == [2.0, 2.0]
    with pytest.raises(DataError, match=r"even-10 has 3 tokens, prompt\.max_tokens is 2"):
        train({**config, "prompt": {**limit, "over_limit": "refuse"}}, tmp_path / "refused")


def test_greedy_training_rollouts_are_refused(tmp_path: Path, small_config: Make) -> None:
    with pytest.raises(ValueError, match=r"sampling\.temperature must be above 0"):
        train(small_config(sampling__temperature=0.0), tmp_path / "run")


def test_stored_rollouts_have_a_value_for_every_token(tmp_path: Path, small_config: Make) -> None:
    config = small_config(steps=3, store_rollouts={"every": 2, "share": 0.25})
    train(config, tmp_path / "run")
    files = list((tmp_path / "run" / "rollouts").iterdir())
    assert [file.name for file in files] == ["step-000002.parquet"]
    rows = pq.read_table(files[0]).to_pylist()
    assert len(rows) == 3  # a quarter of 3 x 4
    for row in rows:
        assert row["weights_version"] == 1  # the weights after step 1 sampled for step 2
        per_token = ("old_logprobs", "sampler_logprobs", "old_entropy", "advantages", "weights", "active")
        assert {len(row[name]) for name in per_token} == {len(row["token_ids"])}
        assert row["old_logprobs"] == pytest.approx(row["sampler_logprobs"], abs=1e-5)


def test_bfloat16_keeps_the_weights_in_float32(tmp_path: Path, small_config: Make) -> None:
    from safetensors.torch import load_file

    result = train(small_config(compute__dtype="bfloat16", steps=1), tmp_path / "run")
    weights = load_file(result.checkpoint / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_progress_is_heard_after_every_step(tmp_path: Path, small_config: Make) -> None:
    heard: list[tuple[int, int]] = []
    with Attempt.open(tmp_path / "run") as attempt:
        run_training(
            small_config(),
            tmp_path / "run",
            attempt,
            cache=tmp_path / "models",
            on_progress=lambda done, total: heard.append((done, total)),
        )
    assert heard == [(1, 2), (2, 2)]


def _weights(result: TrainResult) -> bytes:
    return (result.checkpoint / "model.safetensors").read_bytes()


_CUTS = {"_component_": "method/sampling/mixed_cuts", "warm_up": 2, "delta": 0.0}


def test_without_cuts_the_run_is_that_of_the_base_method(tmp_path: Path, small_config: Make) -> None:
    off = small_config()
    off["method"]["sampling"] = {**_CUTS, "share": 0.0}
    assert _weights(train(off, tmp_path / "off")) == _weights(train(small_config(), tmp_path / "base"))


def test_rollouts_drawn_by_a_rule_are_no_mismatch_and_are_stored_as_they_were_drawn(
    tmp_path: Path, small_config: Make
) -> None:
    config = small_config(store_rollouts={"every": 1, "share": 1.0})
    config["method"]["sampling"] = _CUTS
    train(config, tmp_path / "run")
    assert max(column(tmp_path / "run", "mismatch/max")) < 1e-4  # of the plain half
    assert max(column(tmp_path / "run", "method/sampling/looks_uniform")) < 0.05
    # delta 0: all of K = 5 survive, and every token after the warm-up has probability 1/5.
    assert column(tmp_path / "run", "method/sampling/survivors") == pytest.approx([5, 5], abs=1e-4)
    for rollout in pq.read_table(tmp_path / "run" / "rollouts").to_pylist():
        late = rollout["sampler_logprobs"][2:]
        assert all(abs(value + 1.6094) < 1e-3 for value in late) == (rollout["sample"] >= 2 or not late)


@pytest.mark.parametrize("correction", ["tis", "mis", "icepop", "geo_mask"])
def test_a_correction_for_the_sampler_leaves_rollouts_drawn_by_a_rule_alone(
    tmp_path: Path, small_config: Make, correction: str
) -> None:
    config, plain = small_config(), small_config()
    for each in (config, plain):
        each["method"]["sampling"] = {**_CUTS, "share": 1.0}
    loose = {"low": 0.99, "high": 1.01} if correction == "geo_mask" else {}
    config["method"]["token_weights"] = {
        "sampler": {"_component_": f"method/token_weights/{correction}", **loose}
    }
    one, other = (train(each, tmp_path / name) for each, name in ((config, "one"), (plain, "other")))
    assert _weights(one) == _weights(other)
    assert "mismatch/max" not in read_metrics(tmp_path / "one")[0]["metrics"]
