"""Several processes train one run: to the same numbers as one, and none of them waits for the dead."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tests.train.test_worker import planned
from torch import Tensor

from tokensweep.ledger import Status, read_events, read_metrics, read_run
from tokensweep.problems import Grade, Outcome
from tokensweep.rollout import Rollout
from tokensweep.train.batch import MicroBatch, own_part
from tokensweep.train.checkpoint import await_checkpoint
from tokensweep.train.collect import Drawn, shared
from tokensweep.train.metrics import WALL_CLOCK
from tokensweep.train.ranks import ALONE, Place, Ranks, check_same_weights, fingerprint
from tokensweep.train.setup import assemble_everywhere
from tokensweep.worker import PREEMPTED

Make = Callable[..., dict[str, Any]]

_SCRIPT = Path(__file__).with_name("ranks_run.py")
_GOLDEN = Path(__file__).parents[1] / "golden"
# Presets: a plain one; rounds of sampling; the top 20 % of a batch, and of a micro-batch; a memory; a ratio
# over sequences; a reference; hidden
# states.
_METHODS = (
    "grpo",
    "dapo",
    "forking_tokens",
    "forking_tokens_as_released",
    "entropy_target",
    "gspo",
    "grpo_kl",
    "shear",
)
_NAMES = (*_METHODS, "idle", "lora", "probed", "hora", "reasonmaxxer")
_NEAR = 1e-5  # weights move by up to 0.08; two orders of adding the same gradients differ by less than 1e-6
_VARIABLES = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29",
}


def environment() -> dict[str, str]:
    """Of a process that finds the test's modules, and whose ranks meet on loopback."""
    settings = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PATH": "/usr/bin:/bin"}
    return {"PYTHONPATH": ":".join(sys.path), **settings}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_config: Make) -> Path:
    """What ranks_run.py leaves: every method trained by one rank and by two, and runs that broke."""
    folder = tmp_path_factory.mktemp("ranks")
    configs = {}
    for name in _METHODS:
        method = {**json.loads((_GOLDEN / f"{name}.json").read_text()), "updates_per_batch": 2}
        configs[name] = small_config(steps=4, method=method, store_rollouts={"every": 2, "share": 1.0})
    configs["idle"] = small_config(steps=4, batch__micro_tokens=4096)  # one micro-batch, for two ranks
    configs["lora"] = {**small_config(steps=4), "trainable": {"_component_": "trainable/lora", "rank": 4}}
    configs["probed"] = small_config(
        steps=4,
        method__updates_per_batch=2,
        method__minibatch={"_component_": "method/minibatch/query_preserved", "balance": "assign"},
        method__probes={
            name: {"_component_": f"method/probes/{name}"} for name in ("token_flips", "head_coupling")
        },
    )
    configs["hora"] = small_config(steps=4, method=changed("hora", allocation={"g0": 2}))
    drawn_once = changed("reasonmaxxer", source={"problems": 7, "kept": 6, "temperature": 1.0})
    lora = {"_component_": "trainable/lora", "rank": 4}
    configs["reasonmaxxer"] = {**small_config(steps=4, method=drawn_once), "trainable": lora}
    (folder / "configs.json").write_text(json.dumps(configs))
    done = subprocess.run(
        [sys.executable, str(_SCRIPT), str(folder / "configs.json"), str(folder)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "output.txt").write_text(done.stdout)
    return folder


def changed(preset: str, **slots: dict[str, Any]) -> dict[str, Any]:
    """A preset with two updates per batch and other fields in some of its slots."""
    method = json.loads((_GOLDEN / f"{preset}.json").read_text())
    fields = {slot: {**method[slot], **given} for slot, given in slots.items()}
    return {**method, "updates_per_batch": 2, **fields}


def weights(run_dir: Path) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = load_file(run_dir / "checkpoints" / "step-000004" / "model.safetensors")
    return loaded


def results(run_dir: Path) -> list[dict[str, float]]:
    rows = [row["metrics"] for row in read_metrics(run_dir)]
    return [{k: v for k, v in metrics.items() if not k.startswith(WALL_CLOCK)} for metrics in rows]


def ends(folder: Path, what: str) -> list[int]:
    """How the ranks of a run ended: 0, 1 for an error, minus the number of a signal."""
    told: dict[str, list[int]] = json.loads((folder / "outcomes.json").read_text())
    return told[what]


def error(folder: Path, what: str, rank: int) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "broken" / what / f"rank-{rank}.json").read_text())
    return told


@pytest.mark.parametrize("name", _NAMES)
def test_two_ranks_end_with_the_weights_of_one(trained: Path, name: str) -> None:
    assert ends(trained, f"two/{name}") == [0, 0]
    one, two = weights(trained / "one" / name), weights(trained / "two" / name)
    start = load_file(next((trained / "models").glob("*/model.safetensors")))
    assert max(float((one[key] - start[key]).abs().max()) for key in one) > 0.01
    torch.testing.assert_close(two, one, rtol=0, atol=_NEAR)


@pytest.mark.parametrize("name", _NAMES)
def test_two_ranks_have_the_metrics_of_one(trained: Path, name: str) -> None:
    one, two = results(trained / "one" / name), results(trained / "two" / name)
    assert len(two) == 4
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", _METHODS)
def test_two_ranks_draw_and_select_the_tokens_of_one(trained: Path, name: str) -> None:
    columns = ["problem_id", "sample", "sampling_seed", "token_ids", "text", "grade", "active", "minibatch"]
    for step in (2, 4):
        file = f"rollouts/step-{step:06d}.parquet"
        one, two = (pq.read_table(trained / who / name / file, columns=columns) for who in ("one", "two"))
        assert two.num_rows >= 4
        assert two.to_pylist() == one.to_pylist()


def test_only_the_first_of_two_ranks_writes(trained: Path) -> None:
    run_dir = trained / "two" / "grpo"
    assert [event["kind"] for event in read_events(run_dir)] == [
        "started",
        "checkpoint",
        "checkpoint",
        "trained",
    ]
    assert sorted(path.name for path in run_dir.iterdir()) == ["attempts", "checkpoints", "lock", "rollouts"]
    assert json.loads((run_dir / "checkpoints/step-000004/state.json").read_text())["ranks"] == 2


def test_a_rank_without_a_micro_batch_is_told_of(trained: Path) -> None:
    assert "a mini-batch has only 1 micro-batches for 2 ranks" in (trained / "output.txt").read_text()


@pytest.mark.parametrize(("what", "dead", "left"), [("killed", 1, 0), ("leader_killed", 0, 1)])
def test_a_rank_that_is_killed_ends_the_other(trained: Path, what: str, dead: int, left: int) -> None:
    codes = ends(trained, f"broken/{what}")
    assert (codes[dead], codes[left]) == (-signal.SIGKILL, 1)
    assert error(trained, what, left)["class"] == "RankLostError"


def test_a_rank_that_is_silent_for_too_long_ends_the_other(trained: Path) -> None:
    assert ends(trained, "broken/silent") == [
        1,
        -signal.SIGKILL,
    ]  # stopped, and killed when the other had ended
    assert "or was silent for 3 s" in error(trained, "silent", 0)["text"]


def test_a_killed_run_goes_on_with_two_ranks_to_the_same_bits(trained: Path) -> None:
    # The run that was killed in its third step is that of the first method.
    assert ends(trained, "continued") == [0, 0]
    run_dir, undisturbed = trained / "broken" / "killed", trained / "two" / _METHODS[0]
    for name in ("model.safetensors", "optimizer.safetensors"):
        file = f"checkpoints/step-000004/{name}"
        assert (run_dir / file).read_bytes() == (undisturbed / file).read_bytes()
    assert results(run_dir) == results(undisturbed)
    assert len(list((run_dir / "attempts").iterdir())) == 2


def test_a_killed_run_can_go_on_with_another_number_of_ranks(trained: Path) -> None:
    assert ends(trained, "three") == [0, 0, 0]
    torch.testing.assert_close(
        weights(trained / "broken" / "leader_killed"), weights(trained / "one" / "grpo"), rtol=0, atol=_NEAR
    )
    note = (
        "step-000002 was computed by 2 ranks with 1 threads each, now there are 3 with 1: the last bits may"
    )
    assert (trained / "output.txt").read_text().count(note) == 1


def test_a_loss_that_is_no_number_on_one_rank_is_that_on_all(trained: Path) -> None:
    assert ends(trained, "broken/not_finite") == [1, 1]
    told = [(error(trained, "not_finite", rank)["class"], rank) for rank in (0, 1)]
    assert told == [("NonFiniteError", 0), ("NonFiniteError", 1)]
    assert error(trained, "not_finite", 0)["text"] == "rank 1: the loss is nan"


def test_a_full_disk_of_the_writing_rank_ends_all(trained: Path) -> None:
    assert ends(trained, "broken/disk_full") == [1, 1]
    told = error(trained, "disk_full", 1)
    assert (told["class"], told["number"]) == ("OSError", 28)
    assert told["text"] == "[Errno 28] rank 0: No space left on device"


def test_ranks_whose_weights_differ_stop_before_they_are_saved(trained: Path) -> None:
    assert ends(trained, "broken/different") == [1, 1]
    told = error(trained, "different", 0)
    assert told["class"] == "RanksDifferError"
    assert "after step 1 rank 1 has others than rank 0" in told["text"]
    assert read_metrics(trained / "broken" / "different") == []


def start_workers(run_dir: Path) -> list[subprocess.Popen[str]]:
    """Two ranks, as torchrun would start them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tokensweep.worker", str(run_dir), "train"]
    return [
        subprocess.Popen(
            command,
            env={**environment(), **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]


def test_a_stop_signal_to_any_worker_stops_all_after_the_same_step(
    tmp_path: Path, small_config: Make
) -> None:
    run_dir = planned(tmp_path, small_config(steps=100000, data={"_component_": "data/ops"}))
    workers = start_workers(run_dir)
    while not read_metrics(run_dir):
        assert [worker.poll() for worker in workers] == [None, None]
        time.sleep(0.05)
    workers[1].send_signal(signal.SIGUSR2)
    errors = [worker.communicate(timeout=60)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [PREEMPTED, 0], errors
    record = read_run(run_dir)
    assert (record.status, record.preempted, record.attempts) == (Status.interrupted, 1, 1)
    assert record.durable_step == record.last_step


def test_without_a_world_size_a_process_is_alone() -> None:
    assert Place.of({}) == Place.of({"WORLD_SIZE": "1", "RANK": "0"}) == Place()
    assert Place().size == 1
    assert Place.of({"RANK": "3"}) == Place()


def test_a_rank_has_its_place_from_the_variables_of_torchrun() -> None:
    expected = Place(rank=1, size=2, local_rank=0, address="10.0.0.1", port=29)
    assert Place.of({**_VARIABLES, "PATH": "/bin"}) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": ""}, "a rank must have the numbers RANK, WORLD_SIZE, LOCAL_RANK, MASTER_PORT"),
        ({"MASTER_ADDR": ""}, "and MASTER_ADDR, got"),
        ({"WORLD_SIZE": "two"}, "'WORLD_SIZE': 'two'"),
        ({"RANK": "2"}, "LOCAL_RANK <= RANK < WORLD_SIZE"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK <= RANK < WORLD_SIZE"),
        ({"MASTER_PORT": "70000"}, "a port of 1 to 65535"),
    ],
)
def test_a_place_that_cannot_be_is_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Place.of({**_VARIABLES, **change})


@pytest.mark.parametrize(("count", "size"), [(12, 1), (12, 5), (2, 3), (0, 2)])
def test_parts_cover_everything_once_in_order(count: int, size: int) -> None:
    parts = [Ranks(rank=rank, size=size).part(count) for rank in range(size)]
    assert [index for part in parts for index in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_micro_batches_stay_in_their_mini_batch_and_go_round_the_ranks() -> None:
    micros = [MicroBatch(rollouts=torch.tensor([number]), packs=()) for number in range(5)]
    plan = (tuple(micros[:1]), tuple(micros[1:4]), tuple(micros[4:]))
    assert own_part(plan, Ranks(rank=0, size=2)) == ((micros[0],), (micros[2],), (micros[4],))
    assert own_part(plan, Ranks(rank=1, size=2)) == ((), (micros[1], micros[3]), ())
    assert own_part(plan, ALONE) == plan


class Mirror(Ranks):
    """Two ranks that always say the same."""

    def __init__(self) -> None:
        super().__init__(rank=0, size=2)

    def gather(self, value: Any) -> list[Any]:
        return [json.loads(json.dumps(value))] * 2

    def rows(self, x: Tensor) -> list[Tensor]:
        return [x, x]


def test_rollouts_and_grades_come_from_another_rank_to_the_bit() -> None:
    # A third is no float32, half of a surrogate pair no Unicode text, and minus infinity no JSON.
    rollout = Rollout(
        completion_ids=(7, 8), sampler_logprobs=(1 / 3, -torch.inf), finish_reason="length", weights_version=4
    )
    graded = Drawn(
        rollout=rollout,
        grade=Grade(outcome=Outcome.error, extracted=None, rule="boxed", reason="timeout"),
        text="\ud83c<answer>",
    )
    empty = replace(graded, rollout=replace(rollout, completion_ids=(), sampler_logprobs=()))
    assert shared([graded, empty], Mirror()) == [graded, empty, graded, empty]
    assert shared([graded], ALONE) == [graded]


def test_a_fingerprint_sees_every_bit_and_its_place() -> None:
    x = torch.linspace(-1, 1, 6).view(2, 3)
    assert fingerprint(x) == fingerprint(x.clone())
    assert fingerprint(x) != fingerprint(x.flip(0))
    nudged = x.clone()
    nudged[1, 1] = torch.nextafter(x[1, 1], torch.tensor(9.0))
    assert fingerprint(nudged) != fingerprint(x)
    check_same_weights([x], ranks=Mirror(), step=1)


def test_an_engine_whose_draws_depend_on_each_other_is_refused(tmp_path: Path, small_config: Make) -> None:
    config = small_config(rollout={"_component_": "rollout/hf"})
    with pytest.raises(ValueError, match=r"rollout=hf must run on one rank, got 2"):
        assemble_everywhere(config, cache=tmp_path, ranks=Mirror())
    assemble_everywhere(config, cache=tmp_path, ranks=ALONE)


def test_a_checkpoint_that_stays_unseen_is_an_error_that_names_the_machine(trained: Path) -> None:
    checkpoints = trained / "two" / "grpo" / "checkpoints"
    owner = json.loads((checkpoints / "step-000004/state.json").read_text())["owner"]
    assert await_checkpoint(checkpoints / "step-000004", owner=owner).progress.step == 4
    with pytest.raises(ValueError, match=rf"but {os.uname().nodename} saw for 0 s that its state\.json"):
        await_checkpoint(checkpoints / "step-000006", owner=owner, patience_s=0.0)
