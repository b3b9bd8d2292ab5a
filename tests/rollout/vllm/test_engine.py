"""vLLM's CPU build as an engine: the trainer's probabilities, drawn by request, after any accident."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tests.rollout.vllm.conftest import SMALL, independent_logprobs, moved, worst

from tokensweep.models.policy import Policy
from tokensweep.rollout import Request, SamplingSpec
from tokensweep.rollout.embedded import TorchEngine
from tokensweep.rollout.vllm import EngineError, ParityError, VllmEngine
from tokensweep.rollout.vllm.client import ServerClient
from tokensweep.rollout.vllm.errors import EngineLostError
from tokensweep.rollout.vllm.serving import Serving
from tokensweep.rollout.vllm.weights import FileTransfer

PROMPTS = ((5, 6, 7), (9, 10, 11, 12, 13, 14), (8,))
_PARITY = 1e-4  # nats, float32


def requests(
    *, per_prompt: int = 3, rules: Sequence[tuple[str, float]] = (), **sampling: Any
) -> list[Request]:
    spec = SamplingSpec(**{"max_tokens": 16, **sampling})
    return [
        Request(prompt_ids=prompt, seed=(1 << 62) + 100 * row + sample, sampling=spec, rules=tuple(rules))
        for row, prompt in enumerate(PROMPTS)
        for sample in range(per_prompt)
    ]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_transformers_before_and_after_an_update(
    engine: VllmEngine, policy: Policy, tmp_path: Path, temperature: float
) -> None:
    asked = requests(temperature=temperature, per_prompt=2)
    seen = []
    for version in (1, 2, 3):
        engine.load(policy, version=version)
        rollouts = engine.generate(asked)
        for request, rollout in zip(asked, rollouts, strict=True):
            expected = independent_logprobs(policy, tmp_path / str(version), request, rollout)
            assert worst(rollout.sampler_logprobs, expected) < _PARITY
            assert rollout.weights_version == version
        seen.append([rollout.completion_ids for rollout in rollouts])
        moved(policy, seed=version)
    assert seen[0] != seen[1] != seen[2]


def test_logprobs_are_those_of_the_embedded_engine(engine: VllmEngine, policy: Policy) -> None:
    """On the same tokens: the embedded engine prefills vLLM's completion but for its last token."""
    asked = requests(per_prompt=1, temperature=0.0)
    ours = TorchEngine()
    ours.load(policy, version=0)
    for theirs, own in zip(engine.generate(asked), ours.generate(asked), strict=True):
        assert theirs.completion_ids == own.completion_ids
        assert worst(theirs.sampler_logprobs, own.sampler_logprobs) < _PARITY
        assert theirs.finish_reason == own.finish_reason


@pytest.mark.parametrize("sampling", [{"top_p": 0.6}, {"top_k": 3, "temperature": 0.7}], ids=str)
def test_logprobs_are_of_the_distribution_that_was_drawn_from(
    engine: VllmEngine, policy: Policy, sampling: dict[str, Any]
) -> None:
    from tokensweep.rollout.sampling import sampler_logprobs

    asked = requests(per_prompt=2, **sampling)
    for request, rollout in zip(asked, engine.generate(asked), strict=True):
        ids = torch.tensor([request.prompt_ids + rollout.completion_ids])
        with torch.no_grad():
            table = sampler_logprobs(policy.model(input_ids=ids).logits[0], request.sampling)
        start = len(request.prompt_ids) - 1
        expected = [float(table[start + i, token]) for i, token in enumerate(rollout.completion_ids)]
        assert worst(rollout.sampler_logprobs, expected) < _PARITY


@pytest.mark.parametrize("sampling", [{}, {"top_p": 0.9, "temperature": 0.7}], ids=str)
def test_a_completion_depends_on_its_seed_and_not_on_the_batch(
    engine: VllmEngine, sampling: dict[str, Any]
) -> None:
    asked = requests(per_prompt=5, **sampling)
    together = [rollout.completion_ids for rollout in engine.generate(asked)]
    backwards = [rollout.completion_ids for rollout in engine.generate(asked[::-1])][::-1]
    alone = [engine.generate([request])[0].completion_ids for request in asked[:3]]
    assert together == backwards
    assert together[:3] == alone
    assert len(set(together)) > len(PROMPTS)  # samples of one prompt differ


def test_a_completion_ends_with_the_policys_own_end_tokens(engine: VllmEngine, policy: Policy) -> None:
    free = engine.generate(requests(per_prompt=5))
    policy.eos_ids += tuple({r.completion_ids[2] for r in free if len(r.completion_ids) == 16})
    again = engine.generate(requests(per_prompt=5))
    for whole, cut in zip(free, again, strict=True):
        ids = whole.completion_ids
        end = next((i + 1 for i, token in enumerate(ids) if token in policy.eos_ids), len(ids))
        assert cut.completion_ids == ids[:end]
        assert cut.finish_reason == ("stop" if ids[end - 1] in policy.eos_ids else "length")
    assert any(len(cut.completion_ids) < 16 for cut in again)


def test_a_stop_text_ends_a_completion_and_stays_part_of_it(engine: VllmEngine, policy: Policy) -> None:
    whole = engine.generate(requests(per_prompt=1))[0]
    text = policy.decode(whole.completion_ids)
    stop = text[3:5]
    cut = engine.generate(requests(per_prompt=1, stop=(stop,)))[0]
    assert cut.completion_ids == whole.completion_ids[: text.index(stop) + len(stop)]
    assert cut.finish_reason == "stop"


def test_an_engine_that_missed_an_update_stops_the_run_with_both_figures(
    engine: VllmEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved(policy)
    with monkeypatch.context() as patched:
        patched.setattr(FileTransfer, "send", lambda self, policy, version: None)
        with pytest.raises(ParityError, match=r"with the weights of step 7.*-\d+\.\d+.*trainer -\d+\.\d+"):
            engine.load(policy, version=7)
    engine.load(policy, version=7)
    assert engine.parity is not None
    assert engine.parity.max_abs < _PARITY


def test_requests_that_are_too_long_are_refused_with_the_setting(engine: VllmEngine) -> None:
    with pytest.raises(ValueError, match=r"may take \d+ tokens in vLLM, got 100003: .*max_tokens"):
        engine.generate(requests(max_tokens=100_000, per_prompt=1)[:1])


def test_progress_counts_every_completion_once(engine: VllmEngine) -> None:
    heard: list[int] = []
    engine.generate(requests(), progress=heard.append)
    assert heard == [1] * 9


# A connection that is refused while it is made leaves its socket to the garbage collector, in asyncio.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_server_that_is_killed_is_started_again_and_only_what_was_lost_is_drawn_again(
    engine: VllmEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = requests(per_prompt=40, max_tokens=64)
    undisturbed = engine.generate(asked)
    first = engine.pid
    heard: list[int] = []
    asked_again: list[int] = []

    def kill_early(ended: int) -> None:
        heard.append(ended)
        if len(heard) == 10:
            assert first is not None
            os.killpg(first, signal.SIGKILL)

    draw = Serving.draw

    def watched(self: Serving, asked: Mapping[int, Request], **options: Any) -> None:
        asked_again.append(len(asked))
        draw(self, asked, **options)

    monkeypatch.setattr(Serving, "draw", watched)
    rollouts = engine.generate(asked, progress=kill_early)
    assert engine.pid != first
    assert len(heard) == len(asked)  # every completion once
    assert asked_again[0] == len(asked)
    assert 0 < asked_again[1] <= len(asked) - 10
    assert [r.completion_ids for r in rollouts] == [r.completion_ids for r in undisturbed]
    assert "started again" in capsys.readouterr().out
    gc.collect()  # as long as their warnings are let through


def test_a_server_that_was_killed_between_two_steps_is_started_again_with_the_new_weights(
    engine: VllmEngine, policy: Policy, tmp_path: Path
) -> None:
    first = engine.pid
    assert first is not None
    os.killpg(first, signal.SIGKILL)
    moved(policy)
    engine.load(policy, version=5)
    assert engine.pid != first
    asked = requests(per_prompt=1)
    for request, rollout in zip(asked, engine.generate(asked), strict=True):
        expected = independent_logprobs(policy, tmp_path, request, rollout)
        assert worst(rollout.sampler_logprobs, expected) < _PARITY
        assert rollout.weights_version == 5


def test_a_server_that_always_dies_is_given_up(
    engine: VllmEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(self: Serving, asked: object, **kwargs: object) -> None:
        raise EngineLostError("no answer")

    monkeypatch.setattr(Serving, "draw", dies)
    monkeypatch.setattr(VllmEngine, "load", lambda self, policy, version: None)  # as if it came up each time
    once = VllmEngine(restarts=0)
    once._policy, once._serving = policy, engine._serving
    try:
        with pytest.raises(EngineError, match=r"died 1 times while 9 completions were drawn"):
            once.generate(requests())
    finally:
        engine._serving = None  # the one that was given up has ended the server


def test_rules_reach_logits_processors(
    engine: VllmEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    ruled = VllmEngine(**SMALL, logits_processors=("ban:Ban",))  # type: ignore[arg-type]
    try:
        ruled.load(policy, version=0)
        free = ruled.generate(requests(temperature=0.0, per_prompt=1))
        first = free[0].completion_ids[0]
        banned = ruled.generate(requests(temperature=0.0, per_prompt=1, rules=[("ban", float(first))]))
    finally:
        ruled.close()
    assert all(first not in rollout.completion_ids for rollout in banned)
    assert [r.completion_ids for r in free] == [
        r.completion_ids for r in engine.generate(requests(temperature=0.0, per_prompt=1))
    ]


def test_a_server_that_was_started_by_hand_is_given_the_weights(
    engine: VllmEngine, folder: Path, policy: Policy, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    source = str(Path(sys.modules["tokensweep"].__file__ or "").parents[1])
    command = [
        *(sys.executable, "-m", "tokensweep.rollout.vllm.server", "--model", folder, "--dtype", "float32"),
        *("--host", "127.0.0.1", "--port", port, "--enforce-eager", "--kv-cache-memory-bytes", 10**8),
        *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm", "--enable-scale-out"),
        *("--weight-transfer-config", '{"backend": "tokensweep_file"}'),
    ]
    settings = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "PYTHONPATH": source}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    remote = VllmEngine(server=f"http://127.0.0.1:{port}")
    try:
        with pytest.raises(EngineError, match=f"no vLLM server answers at http://127.0.0.1:{port}"):
            remote.load(policy, version=4)
        client = ServerClient(url=f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 300
        while not client.healthy():
            assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.5)
        moved(policy)
        remote.load(policy, version=4)
        theirs = remote.generate(requests())
    finally:
        remote.close()
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    engine.load(policy, version=4)
    assert [r.completion_ids for r in theirs] == [r.completion_ids for r in engine.generate(requests())]
    assert {r.weights_version for r in theirs} == {4}


def test_closing_ends_the_server_and_removes_its_files(engine: VllmEngine) -> None:
    serving = engine._serving
    assert serving is not None
    server, home = psutil.Process(engine.pid), Path(serving.client.address).parent
    processes = [server, *server.children(recursive=True)]
    assert len(processes) > 1
    engine.close()
    assert psutil.wait_procs(processes, timeout=30)[1] == []
    assert not home.exists()
