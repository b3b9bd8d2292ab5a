"""Two domains in one run: exact shares in every batch, each domain graded by its own source."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokensweep.compose import freeze_run, register_components
from tokensweep.data.command import data_command
from tokensweep.identity import digest, identity_of
from tokensweep.methods.grpo import PlainSampling, UniformAllocation
from tokensweep.plan import make_plan
from tokensweep.problems.countdown import Countdown
from tokensweep.problems.jsonl import JsonlProblems
from tokensweep.problems.mixture import GENERAL, TARGET, Mixture
from tokensweep.problems.ops import Ops
from tokensweep.problems.order import Order
from tokensweep.problems.protocol import Answered, Demonstrated, Mixed, Outcome, Problem, ProblemSource
from tokensweep.problems.selection import Scored, Tried, read_selection, scored, selection_lines, top_entropy
from tokensweep.registry import build
from tokensweep.rollout import Request, Rollout, SamplingSpec
from tokensweep.sweepfile import adhoc_sweep
from tokensweep.train.collect import Collector

register_components()

MIXTURE = Mixture(Ops(size=64), Countdown(size=128), num_target=8, num_general=24)


class Silent:
    """An engine that ends every completion at once."""

    def load(self, policy: Any, *, version: int) -> None: ...
    def rest(self) -> None: ...
    def close(self) -> None: ...

    def generate(self, requests: list[Request], *, progress: Any = None) -> list[Rollout]:
        done = Rollout(completion_ids=(1,), sampler_logprobs=(0.0,), finish_reason="stop", weights_version=0)
        return [done] * len(requests)


def drawn(
    source: ProblemSource, *, prompts: int, batches: int, fitting: Sequence[int] | None = None
) -> list[list[Problem]]:
    """The problems of some optimiser batches, ``fitting`` those within the limit of the prompt."""
    collector = Collector(
        source=source,
        indices=tuple(range(len(source)) if fitting is None else fitting),
        engine=Silent(),  # type: ignore[arg-type]  # a stub
        encode=lambda text: (1,),
        decode=lambda ids: "x",
        sampling=SamplingSpec(max_tokens=4),
        num_prompts=prompts,
        group_size=1,
        seed=0,
    )
    found, position = [], 0
    for step in range(batches):
        got = collector.collect(
            step=step, position=position, allocation=UniformAllocation(), sampling=PlainSampling()
        )
        found.append([group[0].problem for group in got.kept])
        position = got.position
    return found


def test_every_batch_has_exactly_its_share_of_both_domains() -> None:
    # The paper's 128 prompts: 32 of the target and 96 general ones.
    for batch in drawn(replace(MIXTURE, num_target=32, num_general=96), prompts=128, batches=5):
        assert Counter(problem.domain for problem in batch) == {TARGET: 32, GENERAL: 96}


@pytest.mark.parametrize(("share", "targets"), [(0.0, {0}), (1.0, {8}), (0.5, {4}), (0.3, {2, 3})])
def test_a_share_that_is_no_whole_number_of_prompts_is_met_within_one(
    share: float, targets: set[int]
) -> None:
    mixture = replace(MIXTURE, target_share=share)
    counts = [sum(p.domain == TARGET for p in batch) for batch in drawn(mixture, prompts=8, batches=10)]
    assert set(counts) == targets
    assert sum(counts) == 80 * share


def test_few_target_problems_come_again_and_again_each_as_often() -> None:
    # 8 batches of 8 prompts, 2 of them of the target: its 8 problems come twice, as do the 24 general ones
    batches = drawn(MIXTURE, prompts=8, batches=8)
    seen = Counter(problem.id for batch in batches for problem in batch)
    assert {name: count for name, count in seen.items() if name.startswith("ops")} == {
        f"ops-train-{i}": 2 for i in range(8)
    }
    assert sorted(count for name, count in seen.items() if name.startswith("countdown")) == [2] * 24
    first = [problem.id for batch in batches[:4] for problem in batch if problem.domain == TARGET]
    assert len(set(first)) == 8  # an epoch has each of them once


def test_problems_above_the_limit_of_the_prompt_are_left_out_of_their_domain() -> None:
    short = [i for i in range(len(MIXTURE)) if MIXTURE[i].domain == GENERAL or MIXTURE[i].id == "ops-train-3"]
    seen = [p.id for batch in drawn(MIXTURE, prompts=8, batches=2, fitting=short) for p in batch]
    assert [name for name in seen if name.startswith("ops")] == ["ops-train-3"] * 4
    with pytest.raises(ValueError, match="every target problem has more than prompt"):
        drawn(MIXTURE, prompts=8, batches=1, fitting=[i for i in short if MIXTURE[i].domain == GENERAL])


def test_a_problem_is_put_and_graded_as_its_domain_has_it() -> None:
    one, two = Ops(size=64)[0], Countdown(size=128)[0]
    by_id = {MIXTURE[i].id: MIXTURE[i] for i in range(len(MIXTURE))}
    assert by_id[one.id] == replace(one, domain=TARGET)
    assert by_id[two.id] == replace(two, domain=GENERAL)
    right = [
        Ops(size=64, skill=1.0).demonstration(one, 0),
        Countdown(size=128, skill=1.0).demonstration(two, 0),
    ]
    answers = [
        Answered(problem=by_id[problem.id], text=text, finish_reason="stop")
        for problem, text in zip((two, one, two), (right[1], right[0], right[0]), strict=True)
    ]
    outcomes = [grade.outcome for grade in MIXTURE.grade_many(answers)]
    assert outcomes[:2] == [Outcome.correct, Outcome.correct]
    assert outcomes[2] is not Outcome.correct


def test_a_mixture_is_a_source_that_shows_how_both_domains_are_done() -> None:
    assert isinstance(MIXTURE, Mixed)
    assert isinstance(MIXTURE, Demonstrated)
    shown = [MIXTURE[i] for i in range(6)]  # 64 of the target among 192: one in three
    assert sorted(problem.domain for problem in shown) == [GENERAL] * 4 + [TARGET] * 2
    assert all("=" in MIXTURE.demonstration(problem, 0) for problem in shown)


def test_what_is_drawn_does_not_change_the_model_that_is_warm_started() -> None:
    arms = [MIXTURE, replace(MIXTURE, target_share=1.0), replace(MIXTURE, num_target=4, num_general=None)]
    assert len({arm.content_hash() for arm in arms}) == 1
    assert MIXTURE.content_hash() != replace(MIXTURE, target=Ops(size=65)).content_hash()


def test_domains_that_share_an_id_are_refused() -> None:
    with pytest.raises(ValueError, match=r"problems of their own, but 64 ids are in both, such as 'ops"):
        replace(MIXTURE, general=Ops(size=128)).check()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"target_share": 1.2}, r"target_share must be in \[0, 1\], got 1.2"),
        ({"num_target": 0}, "num_target must be at least 1, or null for all, got 0"),
        ({"num_general": 0}, "num_general must be at least 1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(MIXTURE, **fields)


def test_both_parts_are_chosen_and_changed_on_the_command_line() -> None:
    frozen = freeze_run(
        ["data=mixed", "data@data.target=order", "data.general.numbers=4", "data.general.max_tokens=40"]
    )
    source = build(frozen["data"])
    assert source == Mixture(
        Order(), Countdown(numbers=4, max_tokens=40), max_tokens=32, num_target=32, num_general=384
    )
    assert frozen["sampling"]["max_tokens"] == 32


def test_a_mixture_is_tested_on_the_held_out_problems_of_its_target() -> None:
    frozen = freeze_run(["data=mixed", "data.target.steps=3", "eval.held_out=16"])
    alone = freeze_run(["data=ops", "data.steps=3", "eval.held_out=16"])
    assert frozen["eval"]["suites"] == alone["eval"]["suites"]


def test_parts_at_their_default_are_no_part_of_a_run_s_identity() -> None:
    plain, changed = (
        identity_of(freeze_run(["data=mixed", *more]))["data"] for more in ((), ("data.target.steps=3",))
    )
    assert plain["target"] == {"_component_": "data/ops"}
    assert changed["target"] == {"_component_": "data/ops", "steps": 3}
    assert digest(plain) != digest(changed)


def test_a_file_of_a_part_is_found_in_the_store_and_no_tested_problem_is_trained_on(tmp_path: Path) -> None:
    for name, first in (("gsm8k", 0), ("math", 40), ("suite", 60)):
        rows = [
            {"id": f"{name}-{i}", "problem": f"How much is {i} + {i}, all in all?", "answer": str(2 * i)}
            for i in range(first, first + 40)
        ]
        path = tmp_path / "data" / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [
        *("data=mixed", "data@data.target=gsm8k", "data@data.general=math", f"store={tmp_path}"),
        *("eval.held_out=0", "data.target.held_out=0", "data.general.held_out=0", "model=smollm2_135m"),
    ]
    frozen = freeze_run(overrides)
    assert frozen["data"]["general"]["path"] == str(tmp_path / "data" / "math.jsonl")
    suite = ["eval=aime25", f"eval.path={tmp_path}/data/suite.jsonl", "eval.suites.aime25.answers=''"]
    suite += ["eval.suites.aime25.num_problems=null", "eval.suites.aime25.answer_form=text"]
    with pytest.raises(ValueError, match=r"math would train on 20 problems of .* aime25.*data\.general\.ex"):
        make_plan(adhoc_sweep([[*overrides, *suite]], name="x", scale="tiny"))


def test_files_without_demonstrations_cannot_warm_start_a_model(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"id": "a", "problem": "1+1", "answer": "2"}\n')
    mixture = replace(MIXTURE, general=JsonlProblems(path=str(file)))
    problem = Problem(id="a", prompt="1+1", answer="2", domain=GENERAL)
    with pytest.raises(ValueError, match="jsonl has no demonstrations"):
        mixture.demonstration(problem, 0)


def test_uncertainty_is_1_at_one_half_and_0_where_all_agree() -> None:
    def of(accuracy: float) -> Scored:
        return Scored(problem_id="x", num_rollouts=4, accuracy=accuracy, diversity=2.0)

    assert [of(a).uncertainty for a in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 0.5, 0]
    assert [of(a).score for a in (0, 0.25, 0.5, 1)] == [0, 1, 2, 0]


def test_diversity_is_the_mean_entropy_of_the_top_fifth() -> None:
    assert top_entropy([0.1] * 8 + [1.0, 3.0]) == 2.0  # 2 of 10 tokens
    assert top_entropy([0.5, 0.1, 0.2]) == 0.5  # ceil(0.6) = 1
    assert top_entropy([]) == 0


def test_problems_are_ordered_by_uncertainty_times_diversity() -> None:
    tried = [
        *(Tried(problem_id="sure", correct=True, entropy=[9.0]) for _ in range(2)),
        *(Tried(problem_id="half", correct=right, entropy=[1.0, 3.0]) for right in (True, False)),
        *(Tried(problem_id="wild", correct=right, entropy=[5.0]) for right in (True, False)),
    ]
    best = scored(tried)
    assert [(each.problem_id, each.score) for each in best] == [("wild", 5.0), ("half", 3.0), ("sure", 0.0)]


def test_a_selection_limits_the_general_problems_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "best.jsonl"
    names = ("countdown-train-7", "countdown-train-3")
    chosen = [Scored(problem_id=name, num_rollouts=2, accuracy=0.5, diversity=1) for name in names]
    file.write_text(selection_lines(chosen))
    assert read_selection(str(file)) == names
    mixture = replace(MIXTURE, selection=str(file))
    mixture.check()
    problems = [problem for batch in drawn(mixture, prompts=8, batches=4) for problem in batch]
    general = {problem.id for problem in problems if problem.domain == GENERAL}
    assert general == {"countdown-train-3", "countdown-train-7"}
    assert sum(problem.domain == TARGET for problem in problems) == 8
    assert mixture.content_hash() != MIXTURE.content_hash()


def test_a_selection_of_other_problems_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "best.jsonl"
    file.write_text('{"id": "ops-train-1"}\n')
    with pytest.raises(ValueError, match="must name problems of countdown, but 'ops-train-1' is none"):
        replace(MIXTURE, selection=str(file)).check()
    file.write_text("ops-train-1\n")
    with pytest.raises(ValueError, match="line 1 must be a JSON object with an id"):
        replace(MIXTURE, selection=str(file)).check()
    with pytest.raises(ValueError, match="must be a file, but nowhere is none: tokensweep data select"):
        replace(MIXTURE, selection="nowhere").check()


def stored_run(folder: Path) -> Path:
    """A run with two stored steps: problem a is a toss-up with 2 nats on top, b is always right, c has 1."""
    run = folder / "runs" / "x"
    (run / "rollouts").mkdir(parents=True)
    (run / "plan.json").write_text("{}")
    for step, grade in ((1, "correct"), (2, "wrong")):
        rows = [
            {"problem_id": "a", "grade": grade, "old_entropy": [2.0, 0.1]},
            {"problem_id": "b", "grade": "correct", "old_entropy": [9.0]},
            {"problem_id": "c", "grade": grade, "old_entropy": [1.0]},
        ]
        pq.write_table(pa.Table.from_pylist(rows), run / "rollouts" / f"step-{step:06d}.parquet")
    return run


def test_the_command_writes_the_problems_that_a_run_was_most_uncertain_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = stored_run(tmp_path), tmp_path / "best.jsonl"
    data_command(["select", str(run), "keep=1", f"to={file}", f"store={tmp_path}"])
    assert read_selection(str(file)) == ("a",)
    # scores 2, 0 and 1: the mean of all is 1
    assert "1 of 3 problems, mean score 2.000 instead of 1.000 nats" in capsys.readouterr().out
    with pytest.raises(
        ValueError, match="of 3 with stored rollouts only 2 have: draw more steps, or lower k"
    ):
        data_command(["select", str(run), "keep=3", f"to={file}", f"store={tmp_path}"])
    with pytest.raises(ValueError, match="must know keep=N and to=FILE"):
        data_command(["select", str(run), f"store={tmp_path}"])
    for old in (run / "rollouts").iterdir():
        old.unlink()
    with pytest.raises(ValueError, match="must have stored rollouts, but has none"):
        data_command(["select", str(run), "keep=1", f"to={file}", f"store={tmp_path}"])
