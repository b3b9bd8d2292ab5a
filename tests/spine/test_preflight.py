"""What is refused or remarked before a run starts, and what of it makes another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokensweep.compose import freeze_run, register_components
from tokensweep.evaluate import EvalSpec
from tokensweep.identity import digest, identity_of
from tokensweep.models.tiny import TinyModel
from tokensweep.plan import Plan, make_plan
from tokensweep.preflight import overlap_remark
from tokensweep.problems.ops import Ops
from tokensweep.registry import build
from tokensweep.sweepfile import adhoc_sweep

register_components()

_MODEL = {"hidden": 8, "layers": 1, "heads": 1, "head_dim": 8, "mlp": 8, "steps": 0}


def write(file: Path, texts: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": f"{file.stem}-{i}", "problem": text, "answer": "2"} for i, text in enumerate(texts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with made-up problems where gsm8k and aime25 are looked for, and a folder with a model."""
    write(tmp_path / "data" / "gsm8k.jsonl", [f"How much is {i} + 1?" for i in range(40)])
    write(tmp_path / "data" / "aime25.jsonl", [f"How much is ${i}+1$?" for i in range(38, 68)])
    TinyModel(**_MODEL).materialise(data=Ops(), cache=tmp_path / "models").rename(tmp_path / "model")
    return tmp_path


_SUITE = ("eval=aime25", "eval.suites.aime25.answers=''")  # made-up answers are not the known ones


def overrides(store: Path, *more: str, suite: tuple[str, ...] = _SUITE) -> list[str]:
    """A run that trains on gsm8k and is evaluated on aime25."""
    model = ("model=hf", f"model.path={store / 'model'}", "model.chat=false")
    return [*model, "data=gsm8k", "data.held_out=0", *suite, f"store={store}", *more]


def planned(store: Path, *more: str, suite: tuple[str, ...] = _SUITE) -> Plan:
    return make_plan(adhoc_sweep([overrides(store, *more, suite=suite)], name="x", scale="tiny"))


def test_a_known_set_is_found_in_the_store_and_refused_by_name_where_it_is_not(store: Path) -> None:
    frozen = freeze_run(overrides(store))
    assert frozen["data"]["path"] == str(store / "data" / "gsm8k.jsonl")
    assert frozen["eval"]["suites"]["aime25"]["path"] == str(store / "data" / "aime25.jsonl")
    (store / "data" / "aime25.jsonl").unlink()
    with pytest.raises(
        ValueError, match=rf"fetch aime25` on a machine .* copy the file to {store}/data/aime25"
    ):
        planned(store)


def test_a_file_that_is_not_the_benchmark_is_refused_at_plan_time(store: Path) -> None:
    with pytest.raises(ValueError, match=r"aime25 must have the answers it is known for .*got others"):
        planned(store, suite=("eval=aime25",))


def test_training_on_problems_of_an_evaluation_is_refused_with_the_first_ids(store: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"gsm8k would train on 2 problems of the suite aime25: gsm8k-38, gsm8k-39\. Drop them with "
        r"'data\.exclude=\[aime25\]', .*\(compared: letters and digits",
    ):
        planned(store)


def test_the_exclusion_that_is_advised_keeps_what_is_excluded_and_names_other_files(store: Path) -> None:
    (store / "data" / "aime25.jsonl").rename(store / "mine.jsonl")
    write(store / "data" / "math500.jsonl", ["How much is 1 + 1?"])
    advice = rf"'data\.exclude=\[math500,{store}/mine\.jsonl\]'"
    with pytest.raises(ValueError, match=advice):
        planned(store, f"eval.path={store / 'mine.jsonl'}", "data.exclude=[math500]")


def test_problems_of_an_evaluation_are_found_where_an_instruction_was_added(store: Path) -> None:
    texts = [f"A farmer has {i} sheep, buys {i + 1} and sells 3 of them. How many has he?" for i in range(30)]
    suffix = r" Please reason step by step, and put your final answer within \boxed{}."
    write(store / "data" / "aime25.jsonl", texts)
    write(store / "data" / "gsm8k.jsonl", ["How much is 1 + 1?", *(text + suffix for text in texts)])
    with pytest.raises(ValueError, match="gsm8k would train on 30 problems of the suite aime25"):
        planned(store)
    plan = planned(store, "data.exclude=[aime25]")
    assert "gsm8k: 30 of 31 problems dropped by data.exclude" in plan.remarks()


def test_a_problem_that_repeats_a_held_out_one_is_not_trained_on_and_counted(store: Path) -> None:
    farm = "A farmer has 3 sheep, buys 4 and sells 3 of them. How many has he?"
    write(store / "data" / "gsm8k.jsonl", [farm, "How much is 1 + 1?", f"{farm} Think.", farm.lower()])
    plan = planned(store, "data.held_out=1", "eval.held_out=1", suite=("~eval",))
    training = build(plan.runs[0].config["data"])
    # One of the three is held out, by the hash of its id; the other two go.
    assert [training[index].id for index in range(len(training))] == ["gsm8k-1"]
    assert "gsm8k: 2 problems dropped, as they repeat held-out ones" in plan.remarks()


def test_an_evaluation_of_a_trained_run_says_what_the_run_has_seen(store: Path) -> None:
    frozen = freeze_run(overrides(store))
    suite = build(frozen["eval"]["suites"]["aime25"])
    assert (
        overlap_remark(frozen["data"], "aime25", suite) == "aime25: the run trained on 2 of its 30 problems"
    )
    apart = freeze_run(overrides(store, "data.exclude=[aime25]"))
    assert overlap_remark(apart["data"], "aime25", suite) == ""
    (store / "data" / "gsm8k.jsonl").unlink()
    assert "unknown whether the run trained on its" in overlap_remark(frozen["data"], "aime25", suite)


def test_excluded_problems_are_counted_and_make_another_run(store: Path) -> None:
    plan = planned(store, "data.exclude=[aime25]")
    assert "gsm8k: 2 of 40 problems dropped by data.exclude" in plan.remarks()
    alone = planned(store, suite=("~eval",))
    assert plan.runs[0].run_id != alone.runs[0].run_id
    by_path = planned(store, f"data.exclude=[{store / 'data' / 'aime25.jsonl'}]")
    assert by_path.runs[0].run_id == plan.runs[0].run_id  # what is left counts, not how it was named


@pytest.mark.parametrize(
    ("released", "message"),
    [
        ("2025-06-01", "aime25 (2025-02-12) is older than the model (2025-06-01)"),
        ("''", "aime25: unknown whether it was in the model's training data, for lack of model.released"),
        ("2024-06-01", ""),
    ],
)
def test_the_plan_and_its_evaluations_say_what_the_model_may_have_seen(
    store: Path, released: str, message: str
) -> None:
    plan = planned(store, "data.exclude=[aime25]", f"model.released={released}")
    cautions = [entry["caution"] for run in plan.runs for entry in run.evals if entry["suite"] == "aime25"]
    assert [message] == [caution[: len(message) or None] for caution in cautions]
    assert all(caution in plan.remarks() for caution in cautions if caution)


@pytest.mark.parametrize(
    "label",
    [
        *("data.date=2020-01-01", "data.hub=a/b", "data.revision=abc", "data.license=MIT", "data.checked=x"),
        *("data.note=x", "data.num_problems=40", "data.hub_split=test", "model.released=2024-01-01"),
    ],
)
def test_where_data_and_model_are_from_is_no_part_of_a_run(store: Path, label: str) -> None:
    assert _identity(overrides(store, label)) == _identity(overrides(store))


def _identity(words: list[str]) -> str:
    return digest(identity_of(freeze_run(words)))


def test_the_default_prompt_adds_nothing_and_another_makes_another_run_and_evaluation() -> None:
    plain, spelled, other = (
        identity_of(freeze_run(words)) for words in ([], ["prompt=model"], ["prompt=base"])
    )
    assert plain == spelled
    assert "prompt" not in plain
    assert other["prompt"] == {"_component_": "prompt/base"}
    assert identity_of(freeze_run(["prompt.max_tokens=99"]))["prompt"]["max_tokens"] == 99


def _evals(*words: str) -> dict[str, Any]:
    plan = make_plan(adhoc_sweep([list(words)], name="x", scale="tiny"))
    return dict(plan.runs[0].evals[0])


def test_evaluations_of_different_prompts_are_never_compared() -> None:
    plain, other = (
        _evals("data.size=64", "eval.held_out=4"),
        _evals(
            "data.size=64",
            "eval.held_out=4",
            "prompt=base",
            "prompt.template='{prompt} '",
            "prompt.stop=['; ']",
        ),
    )
    assert "stop" not in plain["sampling"]
    assert other["sampling"]["stop"] == ["; "]
    hashes = {EvalSpec.of(entry, engine={}).decode_hash for entry in (plain, other)}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (
            "r1_zero",
            "the tokenizer has no token for some character of 'A conversation .*choose another prompt",
        ),
        ("chat", "the tokenizer has no chat template: choose prompt=base"),
    ],
)
def test_a_prompt_that_the_model_cannot_read_is_refused_at_plan_time(prompt: str, message: str) -> None:
    words = ["model=tiny", "data=ops", "data.size=64", "eval.held_out=4", f"prompt={prompt}"]
    with pytest.raises(ValueError, match=message):
        make_plan(adhoc_sweep([words], name="x", scale="tiny"))


def test_long_prompts_are_refused_or_counted_where_the_tokenizer_is_at_hand(tmp_path: Path) -> None:
    # "1A2B3C4D5=" has 2 * steps + 2 = 10 characters, and a character is a token.
    words = [
        "data.size=64",
        "eval.held_out=4",
        f"store={tmp_path}",
        *(f"model.{k}={v}" for k, v in _MODEL.items()),
    ]
    for limit, message in (
        (9, "ops-train-0 has 10 tokens, prompt.max_tokens is 9"),
        (0, "at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make_plan(adhoc_sweep([[*words, f"prompt.max_tokens={limit}"]], name="x", scale="tiny"))
    sound = make_plan(adhoc_sweep([[*words, "prompt.max_tokens=10"]], name="x", scale="tiny"))
    assert sound.remarks() == []


def test_dropped_prompts_are_counted_in_the_plan(store: Path) -> None:
    write(store / "data" / "gsm8k.jsonl", ["1+1", "1+1+1+1+1+1"])
    limit = ("prompt.max_tokens=5", "prompt.over_limit=drop")
    plan = planned(store, "data.instruction='{problem}'", *limit, suite=("~eval",))
    assert plan.remarks() == ["gsm8k: 1 of 2 problems dropped, longer than prompt.max_tokens=5"]
