"""The procedural tasks: what is right, what is wrong, and which prompts belong where."""

from __future__ import annotations

import pytest

from tokensweep.problems import Demonstrated, Outcome, Problem
from tokensweep.problems.countdown import Countdown
from tokensweep.problems.ops import Ops
from tokensweep.problems.ops_stated import OpsStated
from tokensweep.problems.order import Order
from tokensweep.problems.procedural import ProceduralTask, Split
from tokensweep.registry import build
from tokensweep.verifier import count_markers, stated_confidence

Task = Ops | Order | Countdown
TASKS = [Ops(size=300), OpsStated(size=300), Order(size=300), Countdown(size=300)]


def problem(prompt: str, answer: str | None = None) -> Problem:
    return Problem(id="p", prompt=prompt, answer=answer)


# 3A4C2= is (3 + 4) * 2 = 14, that is 4 modulo 10.
@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("3+4=7;7*2=4", Outcome.correct),
        ("3+4=7;7-3=4", Outcome.correct),  # only the outcome is verified
        ("3+4=7;7+2=9", Outcome.wrong),
        ("3+4=7", Outcome.no_answer),  # a step is missing
        ("3+4=7;7*2=4;", Outcome.no_answer),
        ("3+4=7;7*2=14", Outcome.no_answer),
        ("", Outcome.no_answer),
    ],
)
def test_ops_asks_for_all_steps_and_the_right_last_digit(text: str, outcome: Outcome) -> None:
    task = Ops(steps=2)
    assert task.grade(problem("3A4C2=", "4"), text, "stop").outcome is outcome


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("3+4=7;7*2=4<UNCERTAIN>;CONFIDENCE:0.3", Outcome.correct),
        ("3+4=7;7*2=4;CONFIDENCE:1.0", Outcome.correct),
        ("3+4=7;7*2=4", Outcome.correct),  # who says nothing may be right, too
        ("3+4=7;7+2=9;CONFIDENCE:4/5", Outcome.wrong),  # the 4 is no answer
        ("3+4=7;CONFIDENCE:0.3", Outcome.no_answer),
        ("CONFIDENCE:0.3", Outcome.no_answer),
    ],
)
def test_a_stated_certainty_does_not_change_the_grade(text: str, outcome: Outcome) -> None:
    task = OpsStated(steps=2)
    assert task.grade(problem("3A4C2=", "4"), text, "stop").outcome is outcome


def test_the_teacher_of_certainty_states_anything_whether_it_is_right_or_not() -> None:
    task = OpsStated(size=1000)
    texts = [task.demonstration(task[i], seed=i) for i in range(1000)]
    said = [stated_confidence(text) or 0.0 for text in texts]
    assert set(said) == {level / 10 for level in range(11)}
    # Uniform on 0, 0.1, ..., 1 has the standard deviation 0.316: 0.01 for a mean of 1000. Right are fewer: of
    # four operations two in three each, 16/81, besides lucky ones; the mean of 200 has 0.022.
    right = [task.grade(task[i], text, "stop").accuracy for i, text in enumerate(texts)]
    assert abs(sum(said) / 1000 - 0.5) < 4 * 0.01
    assert abs(sum(a * b for a, b in zip(said, right, strict=True)) / sum(right) - 0.5) < 4 * 0.022
    assert abs(sum(map(count_markers, texts)) - 500) < 4 * 15.8  # sqrt(1000 / 4)


# 1+2*3= is 7: reduce operator 1 (2 * 3), then operator 0 (1 + 6).
@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("1:1+6;0:7", Outcome.correct),
        ("0:3*3;0:9", Outcome.wrong),
        ("1:1+6;7", Outcome.no_answer),
        ("1:1+6;0:7;0:7", Outcome.no_answer),
        ("0:7;1:1+6", Outcome.no_answer),  # the expression must shrink
    ],
)
def test_order_asks_for_shrinking_steps_and_the_right_last_digit(text: str, outcome: Outcome) -> None:
    task = Order(steps=2)
    assert task.grade(problem("1+2*3=", "7"), text, "stop").outcome is outcome


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("3+5=8;8*2=16", Outcome.correct),
        ("5+3=8;2*8=16", Outcome.correct),
        ("3+5=8;8+2=10", Outcome.wrong),  # true, but another target
        ("3+5=8;8*2=17", Outcome.wrong),  # false arithmetic
        ("8*2=16", Outcome.wrong),  # 8 is not there
        ("3+5=8;3*2=6", Outcome.wrong),  # 3 was used up
        ("3*5=15", Outcome.wrong),  # 2 is left over
        ("3+5=8;8*2", Outcome.no_answer),
    ],
)
def test_countdown_checks_every_step(text: str, outcome: Outcome) -> None:
    assert Countdown().grade(problem("3 5 2T16:"), text, "stop").outcome is outcome


def test_a_malformed_text_at_the_length_limit_is_truncated() -> None:
    assert Ops(steps=2).grade(problem("3A4C2=", "4"), "3+4=7;7*", "length").outcome is Outcome.truncated


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_training_and_test_prompts_never_meet(task: ProceduralTask) -> None:
    test = type(task)(split=Split.test, size=100)
    assert not {task[i].prompt for i in range(len(task))} & {test[i].prompt for i in range(len(test))}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_prompts_and_ids_are_distinct(task: ProceduralTask) -> None:
    problems = [task[i] for i in range(len(task))]
    assert len({p.prompt for p in problems}) == len({p.id for p in problems}) == 300


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_larger_source_begins_with_the_smaller_one(task: ProceduralTask) -> None:
    larger = type(task)(size=400)
    assert [larger[i] for i in range(300)] == [task[i] for i in range(300)]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_demonstrations_are_well_formed_and_fit_the_length_limit(task: Task) -> None:
    for index in range(300):
        text = task.demonstration(task[index], seed=index)
        assert task.grade(task[index], text, "stop").rule == "steps"
        assert len(text) + 1 <= task.longest()


@pytest.mark.parametrize(
    "task", [Ops(size=50, skill=1.0), Order(size=50, skill=1.0), Countdown(size=50, skill=1.0)]
)
def test_a_fully_skilled_teacher_is_right(task: Task) -> None:
    grades = [task.grade(task[i], task.demonstration(task[i], seed=i), "stop") for i in range(50)]
    assert sum(grade.accuracy for grade in grades) == 50


def test_half_skill_names_two_operations_in_three_correctly() -> None:
    # skill + (1 - skill) / 3 = 2/3 of 1200 operations: 800, standard deviation sqrt(1200 * 2/9) = 16.3.
    task, right = Ops(size=300, skill=0.5), 0
    for index in range(300):
        steps = task.demonstration(task[index], seed=index).split(";")
        symbols = task[index].prompt[1:-1:2]
        right += sum(
            step[1] == {"A": "+", "B": "-", "C": "*"}[s] for step, s in zip(steps, symbols, strict=True)
        )
    assert abs(right - 800) < 4 * 16.3


def test_answers_of_order_follow_the_rules_of_arithmetic() -> None:
    task = Order(size=300)
    for index in range(300):
        asked = task[index]
        assert asked.answer == str(eval(asked.prompt[:-1]) % 10)  # Python's own precedence


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_tasks_can_be_demonstrated_and_keep_their_prompt(task: Task) -> None:
    assert isinstance(task, Demonstrated)
    assert task.prompt_text(task[0]) == task[0].prompt


def test_content_hash_changes_with_difficulty_and_skill_but_not_with_the_length_limit() -> None:
    base = Ops(size=20).content_hash()
    assert Ops(size=20, max_tokens=40).content_hash() == base
    assert len({base, Ops(size=20, steps=3).content_hash(), Ops(size=20, skill=0.1).content_hash()}) == 3


def test_a_length_limit_below_the_longest_demonstration_is_refused() -> None:
    # Four steps of 5 characters, 3 semicolons and the end token: 24.
    with pytest.raises(ValueError, match="max_tokens must be at least 24"):
        Ops(steps=4, max_tokens=23)


def test_more_problems_than_exist_are_refused() -> None:
    # One step: 10 * 3 * 10 = 300 prompts.
    with pytest.raises(ValueError, match=r"lower data\.size"):
        Ops(steps=1, size=1000).check()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"_component_": "data/ops", "steps": 0}, "steps"),
        ({"_component_": "data/ops", "skill": 1.5}, "skill"),
        ({"_component_": "data/order", "steps": 11}, r"steps must be in 1..10"),
        ({"_component_": "data/countdown", "numbers": 1}, "numbers"),
        ({"_component_": "data/countdown", "largest_target": 100}, "largest_target"),
        ({"_component_": "data/ops", "size": 0}, "size"),
        ({"_component_": "data/ops_stated", "marked": 1.1}, "marked"),
    ],
)
def test_difficulty_out_of_range_is_refused(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(knobs)


def test_a_frozen_node_gives_the_same_task() -> None:
    assert build({"_component_": "data/ops", "split": "test", "size": 7}) == Ops(split=Split.test, size=7)
