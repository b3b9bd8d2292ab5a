"""The best arms of a search are confirmed on seeds and questions that it has not seen, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tokensweep.compose import freeze_run, register_components
from tokensweep.orchestrate import dry_run, run_sweep
from tokensweep.plan import Plan, make_plan
from tokensweep.problems.protocol import ProblemSource
from tokensweep.registry import build
from tokensweep.search.choice import best_trials
from tokensweep.search.confirm import confirm_command
from tokensweep.search.space import Parameter, Space
from tokensweep.search.spec import Objective, Search, search_folder
from tokensweep.sweepfile import Job, Sweep

register_components()

_FRACTION = "method.token_weights.entropy.fraction"
_BASE = ("method=forking_tokens", "scale=smoke", "eval.held_out=24")
Trial = dict[str, Any]


def trial(number: int, value: float | None, /, **fields: Any) -> Trial:
    """A row of trials.json: complete where it has a value."""
    return {
        "number": number,
        "arm": f"trial-{number:03d}",
        "state": "failed" if value is None else "complete",
        "params": {_FRACTION: (number + 1) / 16},
        "values": None if value is None else [value],
        "runs": {},
        "counted": True,
        **fields,
    }


_TRIALS = (trial(0, 0.2), trial(1, 0.6), trial(2, None), trial(3, 0.6), trial(4, 0.9), trial(5, 0.1))


def write_search(store: Path, *, trials: Sequence[Trial] = _TRIALS, **fields: Any) -> Search:
    """A search as it lies in a store, without its runs."""
    space = Space((Parameter(key=_FRACTION, low=0.01, high=1.0),))
    search = Search(**{"name": "looking", "space": space, "base": _BASE, "seeds": (0, 1), **fields})
    folder = search_folder(store, search.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "search.json").write_text(json.dumps({"search": search.as_json(), "base_sha": ""}))
    told = {"name": search.name, "objectives": [], "planned": 6, "space": [], "trials": list(trials)}
    (folder / "trials.json").write_text(json.dumps(told))
    return search


@pytest.fixture(autouse=True)
def _trials_stay_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no study behind the trials here."""
    monkeypatch.setattr("tokensweep.search.confirm.copy_study", lambda store, name: "")


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """The plan of a confirmation, whose runs are not started."""

    def command(*arguments: str) -> Plan:
        plans: list[Plan] = []

        def keep(sweep: Sweep, *, launcher: str, check: Callable[[Plan], None]) -> None:
            plans.append(make_plan(sweep))
            check(plans[0])

        monkeypatch.setattr("tokensweep.orchestrate.run_sweep", keep)
        confirm_command(["looking", *arguments, f"store={tmp_path}"])
        return plans[0]

    return command


def _arms(plan: Plan) -> list[str]:
    return list(dict.fromkeys(job.arm for job in plan.sweep.jobs))


def _seeds(plan: Plan) -> list[int]:
    return sorted({entry["seed"] for entry in plan.entries})


def _prompts(node: Mapping[str, Any]) -> set[str]:
    source: ProblemSource = build(node)
    return {source[index].prompt for index in range(len(source))}


def _asked(plan: Plan) -> set[str]:
    return set().union(*(_prompts(entry["source"]) for run in plan.runs for entry in run.evals))


def _fraction(plan: Plan, arm: str) -> float:
    ids = {entry["run_id"] for entry in plan.entries if entry["arm"] == arm}
    (value,) = {
        run.config["method"]["token_weights"]["entropy"]["fraction"] for run in plan.runs if run.run_id in ids
    }
    return float(value)


def test_the_best_arms_meet_the_base_on_new_seeds(tmp_path: Path, planned: Callable[..., Plan]) -> None:
    write_search(tmp_path, paper="arXiv:1", question="Which?", note="Of the search.")
    plan = planned("--top", "2", "--seeds", "3")
    assert _arms(plan) == ["base", "trial-004", "trial-001"]  # 0.9, and of the two with 0.6 the earlier
    assert _seeds(plan) == [2, 3, 4]
    assert len(plan.runs) == 9
    assert (_fraction(plan, "base"), _fraction(plan, "trial-004")) == (0.2, 5 / 16)
    sweep = plan.sweep
    assert (sweep.name, sweep.baseline, sweep.scale) == ("looking-confirm", "base", "smoke")
    assert (sweep.paper, sweep.question) == ("arXiv:1", "Which?")
    assert sweep.note == (
        "Of the search. Chosen among 6 trials of the search looking: trial-004, trial-001. The search has "
        "seeds 0, 1; these runs have seeds 2, 3, 4 and questions that the search has not asked: the verdict "
        "is free of the winner's curse, while the search's own maximum is not."
    )
    assert [(claim["id"], claim["contrast"]) for claim in sweep.claims] == [
        ("trial_004_beats_base", "trial-004 - base"),
        ("trial_001_beats_base", "trial-001 - base"),
    ]


def test_three_arms_and_five_seeds_unless_told_otherwise(
    tmp_path: Path, planned: Callable[..., Plan]
) -> None:
    write_search(tmp_path)
    plan = planned()
    assert (len(_arms(plan)), _seeds(plan)) == (4, [2, 3, 4, 5, 6])


def test_no_question_of_the_search_is_asked_again(tmp_path: Path, planned: Callable[..., Plan]) -> None:
    write_search(tmp_path)
    plan = planned("--top", "1", "--seeds", "1", "eval.held_out=30")
    seen = _prompts(freeze_run(_BASE)["eval"]["suites"]["ops"])
    assert (len(seen), len(_asked(plan)), seen & _asked(plan)) == (24, 30, set())


def test_what_runs_of_the_search_were_asked_counts_whatever_its_base_says_now(
    tmp_path: Path, planned: Callable[..., Plan]
) -> None:
    node = freeze_run([*_BASE, "eval.held_out=40"])["eval"]["suites"]["ops"]
    folder = tmp_path / "runs" / "aaaa-bbbb"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps({"evals": [{"source": node}]}))
    write_search(tmp_path, trials=[trial(0, 0.5, runs={"7": "aaaa-bbbb"})])
    plan = planned("--top", "1", "--seeds", "1")
    assert _seeds(plan) == [8]  # behind the seed that a run has
    assert {entry["source"]["skip"] for run in plan.runs for entry in run.evals} == {40}
    assert not _prompts(node) & _asked(plan)


def test_skipping_by_hand_is_not_trusted(tmp_path: Path, planned: Callable[..., Plan]) -> None:
    write_search(tmp_path)
    with pytest.raises(
        ValueError, match=r"14 of 24 questions of the suite ops are those of the search looking"
    ):
        planned("eval.held_out_skip=10")  # 24 - 10
    assert not (tmp_path / "sweeps" / "looking-confirm").exists()
    assert len(_asked(planned("eval.held_out_skip=100"))) == 24


def test_a_split_without_enough_questions_left_is_refused_with_both_ways_out(
    tmp_path: Path, planned: Callable[..., Plan]
) -> None:
    # One step: 300 prompts, about 60 of them in the test split.
    write_search(
        tmp_path, base=(*_BASE, "data.steps=1", "data.size=64", "data.max_tokens=8", "eval.held_out=40")
    )
    with pytest.raises(ValueError, match=r"too few questions are left .*eval=NAME.*or give --same-questions"):
        planned()


def test_the_same_questions_are_asked_where_that_is_said_and_the_note_says_it(
    tmp_path: Path, planned: Callable[..., Plan]
) -> None:
    write_search(tmp_path)
    plan = planned("--same-questions", "--top", "1")
    assert _asked(plan) == _prompts(freeze_run(_BASE)["eval"]["suites"]["ops"])
    assert plan.sweep.note.endswith(
        "the same questions as the search: the verdict still carries its winner's curse over questions."
    )
    assert "free of" not in plan.sweep.note


def _file(path: Path, first: int) -> None:
    rows = [{"id": f"q{i}", "problem": f"{i}+1", "answer": str(i + 1)} for i in range(first, first + 30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    """Overrides of a search on a file of 30 questions; a second file holds others."""
    folder = tmp_path / "data"
    folder.mkdir()
    _file(folder / "brumo25.jsonl", 0)
    _file(folder / "hmmt_nov25.jsonl", 30)
    data = ("model=smollm2_135m", "data=gsm8k", f"data.path={folder / 'train.jsonl'}", "data.held_out=0")
    _file(folder / "train.jsonl", 60)
    return ("method=forking_tokens", *data, "eval=brumo25", f"eval.path={folder}", "eval.held_out=0")


def test_a_file_that_was_asked_as_a_whole_is_refused_with_both_ways_out(
    tmp_path: Path, files: tuple[str, ...], planned: Callable[..., Plan]
) -> None:
    write_search(tmp_path, base=files)
    with pytest.raises(
        ValueError, match=r"30 of 30 questions of the suite brumo25 .*eval=NAME.*--same-questions"
    ):
        planned()
    assert "winner's curse over questions" in planned("--same-questions").sweep.note


def test_another_file_gives_other_questions(
    tmp_path: Path, files: tuple[str, ...], planned: Callable[..., Plan]
) -> None:
    write_search(tmp_path, base=(*files, "eval.suites.brumo25.size=10"))
    plan = planned("eval=hmmt_nov25")
    assert {entry["suite"] for run in plan.runs for entry in run.evals} == {"hmmt_nov25"}
    assert "free of the winner's curse" in plan.sweep.note


def test_a_file_under_another_name_gives_the_same_questions(
    tmp_path: Path, files: tuple[str, ...], planned: Callable[..., Plan]
) -> None:
    (tmp_path / "data" / "aime26.jsonl").write_text((tmp_path / "data" / "brumo25.jsonl").read_text())
    write_search(tmp_path, base=files)
    with pytest.raises(ValueError, match=r"30 of 30 questions of the suite aime26"):
        planned("eval=aime26")


def test_a_part_of_a_file_leaves_the_other_part(
    tmp_path: Path, files: tuple[str, ...], planned: Callable[..., Plan]
) -> None:
    write_search(tmp_path, base=(*files, "eval.suites.brumo25.size=10"))
    assert _asked(planned()) == {f"{i}+1" for i in range(10, 20)}
    write_search(tmp_path, base=(*files, "eval.suites.brumo25.size=20"))
    with pytest.raises(
        ValueError, match=r"too few .* has 30 train problems, but 20 were asked for behind the f"
    ):
        planned("sweep=second")
    assert _asked(planned("sweep=second", "eval.suites.brumo25.size=10")) == {f"{i}+1" for i in range(20, 30)}


def test_the_choice_is_made_once(
    tmp_path: Path, planned: Callable[..., Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(tmp_path)
    first = planned("--top", "1", "--seeds", "2")
    capsys.readouterr()
    assert planned("--top", "1", "--seeds", "2").sweep == first.sweep == planned().sweep
    assert "again" not in capsys.readouterr().out
    write_search(tmp_path, trials=[*_TRIALS, trial(6, 0.99, runs={"2": "cccc"})])
    later = planned("--top", "2", "--seeds", "4")
    assert later.sweep == first.sweep
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "--top is 2 now and other seeds than 2, 3 were asked for and the search has 6 complete trials now, 5"
        in out
    )
    assert "To choose again: tokensweep confirm looking sweep=NAME" in out
    other = planned("--top", "2", "sweep=second")
    assert (other.sweep.name, _arms(other)) == ("second", ["base", "trial-006", "trial-004"])
    assert _seeds(other)[0] == 3


def test_a_dry_run_shows_the_plan_and_chooses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_search(tmp_path)
    confirm_command(["looking", "--dry-run", "--top", "1", "--seeds", "1", f"store={tmp_path}"])
    out = capsys.readouterr().out
    assert "looking: the best 1 of 5 complete trials, with accuracy in the search" in out
    assert f"trial-004  0.9  {_FRACTION}=0.3125" in out
    assert "2 runs, 2 to do" in out
    assert "trial_004_beats_base" in out
    assert not (tmp_path / "sweeps" / "looking-confirm").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], r"no search 'nowhere' in .*: searches are looking"),
        (
            ["plain"],
            r"plain is a sweep and no search, so none of its arms was chosen \(searches are looking\)",
        ),
        (
            ["looking", "--top", "6"],
            r"--top must be at least 1 and at most 5, got 6: .* has 5 complete trials",
        ),
        (["looking", "--top", "0"], r"--top must be at least 1 and at most 5, got 0"),
        (["looking", "--seeds", "0"], r"--seeds must be at least 1, got 0"),
        (["looking", "seeds=1,7"], r"seeds= must have none of the search's seeds 0, 1, got 1: .* such as 2"),
        (["looking", "seeds=7,7"], r"seeds= has one twice"),
        (
            ["looking", "seeds=7,8", "--seeds", "3"],
            r"seeds=7,8 are 2 seeds, and --seeds is 3: give one of both",
        ),
        (["looking", "seed=7"], r"seed=7 would give all runs one seed"),
        (["looking", f"{_FRACTION}=0.5"], r"would give all arms one value of what was searched"),
        (["looking", "method=dapo"], r"method=dapo would give all arms one value of what was searched"),
        (["looking", "sweep=looking"], r"looking is a sweep already, and no confirmation"),
        (["looking", "sweep=plain"], r"plain is a sweep already, and no confirmation"),
        (["looking", "eval.held_out=0"], r"nothing is evaluated, so nothing can be confirmed"),
        (["looking", "steps"], r"expected KEY=VALUE, got 'steps'"),
    ],
)
def test_what_cannot_be_confirmed_is_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokensweep.orchestrate.write_plan", lambda plan, group: pytest.fail("it is run"))
    write_search(tmp_path)
    (tmp_path / "sweeps" / "plain").mkdir()
    (tmp_path / "sweeps" / "plain" / "sweep.json").write_text("{}")
    with pytest.raises(ValueError, match=message):
        confirm_command([*arguments, f"store={tmp_path}"])
    assert not (tmp_path / "sweeps" / "looking-confirm").exists()


def test_a_search_without_a_complete_trial_is_refused(tmp_path: Path) -> None:
    write_search(tmp_path, trials=[trial(0, None)])
    with pytest.raises(ValueError, match="the search looking has no complete trial yet"):
        confirm_command(["looking", f"store={tmp_path}"])
    (search_folder(tmp_path, "looking") / "trials.json").unlink()
    with pytest.raises(ValueError, match=r"looking has no trials.json yet: tokensweep report looking"):
        confirm_command(["looking", f"store={tmp_path}"])


def test_a_setting_that_was_tried_twice_is_one_arm() -> None:
    same = {_FRACTION: 0.5}
    trials = [
        trial(0, 0.5, params=same),
        trial(1, 0.5, params=same),
        trial(2, 0.4),
        trial(3, 0.9, counted=False),
    ]
    best = best_trials(trials, [Objective.accuracy], top=2, search="looking")
    assert [each["number"] for each in best] == [0, 2]


def test_of_several_objectives_the_front_is_confirmed_best_accuracy_first() -> None:
    # (tokens, accuracy): 1 beats 0, and 3 beats 4; nothing beats 1, 2 and 3.
    values = [(30.0, 0.5), (20.0, 0.5), (90.0, 0.8), (10.0, 0.2), (10.0, 0.1)]
    trials = [trial(number, 0.0, values=list(pair)) for number, pair in enumerate(values)]
    objectives = [Objective.tokens, Objective.accuracy]

    def best(top: int) -> list[int]:
        return [each["number"] for each in best_trials(trials, objectives, top=top, search="looking")]

    assert best(5) == [2, 1, 3]
    assert best(2) == [2, 1]
    with pytest.raises(ValueError, match="looked for tokens alone, and verdicts are about accuracy"):
        best_trials(trials, [Objective.tokens], top=1, search="looking")


def test_a_plan_is_checked_before_a_run_is_written(tmp_path: Path) -> None:
    def refuse(plan: Plan) -> None:
        raise ValueError(f"{len(plan.runs)} run is not wanted")

    sweep = Sweep(name="x", jobs=(Job("", "a", ("scale=smoke", f"store={tmp_path / 'store'}")),))
    for run in (run_sweep, dry_run):
        with pytest.raises(ValueError, match="1 run is not wanted"):
            run(sweep, launcher="local", check=refuse)
    assert not (tmp_path / "store").exists()
