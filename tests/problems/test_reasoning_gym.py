"""reasoning-gym as a source: which families are trusted, what a problem is, how a completion is read."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

from tokensweep.compose import freeze_run, register_components
from tokensweep.models.tiny import TinyModel
from tokensweep.problems import Demonstrated, Outcome, ProblemSource
from tokensweep.problems.procedural import Split
from tokensweep.problems.reasoning_gym import ALLOWED, ReasoningGym, probe, read_answer
from tokensweep.registry import build

register_components()


def _dataset(family: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(family, seed=1, size=100)


class Rewards:
    """Problems "what is <index>?" with a grader of one's own."""

    def __init__(self, score: Any, *, answer: str | None = None) -> None:
        self.score = score
        self.answer = answer

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"question": f"what is {index}?", "answer": self.answer or f"no. {index}"}

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> Any:
        return self.score(answer, entry["answer"])


def test_the_probe_finds_nothing_wrong_with_exact_match() -> None:
    assert probe(Rewards(lambda answer, gold: float(answer == gold))) == []


def test_partial_credit_is_not_wrong_as_rewards_are_cut_at_one() -> None:
    assert probe(Rewards(lambda answer, gold: 1.0 if answer == gold else 0.99)) == []


@pytest.mark.parametrize(
    ("score", "fault"),
    [
        (lambda answer, gold: 0.9 if answer == gold else 0.0, "the answer 'no. 0' .* scores 0.9"),
        (lambda answer, gold: float(bool(answer)), "the answer 'no. 1' to .* 'no. 0' scores 1.0"),
        (lambda answer, gold: float(gold in (answer or "")), "the answer 'no. 0 no. 1' .* scores 1.0"),
        (lambda answer, gold: float(answer in (gold, "")), "the answer '' .* scores 1.0"),
        (lambda answer, gold: float(answer in (gold, "nan")), "the answer 'nan' .* scores 1.0"),
        (lambda answer, gold: float(answer.strip() == gold), "the answer None raises AttributeError"),
        (lambda answer, gold: answer == gold or None, "scores None"),
    ],
)
def test_the_probe_finds_a_reward_that_is_wrong(score: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        raise ValueError("; ".join(probe(Rewards(score))))


def test_the_probe_finds_a_missing_reference_answer() -> None:
    class Silent(Rewards):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"question": "?", "answer": None}

    assert probe(Silent(lambda answer, gold: 0.0))[0] == "an item has no reference answer but None"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "fault"),
    [
        ("game_of_life_halting", "the answer 'False' to a problem whose answer is 'True' scores 1.0"),
        ("puzzle24", "scores 1.0"),
        ("prime_factorization", "raises ValueError"),
        ("complex_arithmetic", "the answer 'nan' to"),
        ("word_sorting", "scores 1.0"),
        ("graph_color", "no reference answer"),
    ],
)
def test_the_probe_finds_the_broken_rewards_of_the_package(family: str, fault: str) -> None:
    assert fault in "\n".join(probe(_dataset(family)))


@pytest.mark.slow
@pytest.mark.parametrize("family", ALLOWED)
def test_an_allowed_family_passes_the_probe(family: str) -> None:
    assert probe(_dataset(family)) == []


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("puzzle24", "an expression with other numbers"),
        ("number_sequence", "default complexity can hang"),
        ("sudoku", "not among those that were looked through"),
    ],
)
def test_a_family_that_is_not_allowed_is_refused_with_its_reason(family: str, why: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.family={family} is refused: .*{why}.*choose from: ab"):
        ReasoningGym(family=family)


@pytest.mark.parametrize("version", [None, "0.1.24"])
def test_without_the_right_release_the_command_to_install_it_is_named(
    monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    def installed_version(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed_version)
    source = ReasoningGym(family="lcm")  # that no other test has loaded
    with pytest.raises(ValueError, match=rf"0\.1\.25, got {version or 'none'}: pip install 'tokensweep\["):
        source.check()


def test_rewards_that_are_wrong_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Rewards(lambda answer, gold: 1.0)
    monkeypatch.setattr("tokensweep.problems.reasoning_gym._dataset", lambda family, options: broken)
    with pytest.raises(ValueError, match=r"chain_sum with options \{\} is refused, as its rewards are wrong"):
        ReasoningGym(family="chain_sum").check()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"no_such": 1}, {"min_terms": 9, "max_terms": 2}])
def test_options_that_the_family_does_not_take_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"chain_sum does not take data\.options="):
        ReasoningGym(family="chain_sum", options=options).check()


@pytest.mark.slow
def test_problems_depend_on_their_place_alone_and_splits_never_meet() -> None:
    few, many = (ReasoningGym(family="chain_sum", size=size) for size in (50, 80))
    test = ReasoningGym(family="chain_sum", size=30, split=Split.test)
    prompts = [many[index].prompt for index in range(80)]
    assert [few[index] for index in range(50)] == [many[index] for index in range(50)]
    assert len(set(prompts)) == 80
    assert not set(prompts) & {test[index].prompt for index in range(30)}
    assert isinstance(few, ProblemSource)
    assert not isinstance(few, Demonstrated)


@pytest.mark.slow
def test_options_change_the_problems_and_the_content_hash() -> None:
    plain = ReasoningGym(family="chain_sum", size=20)
    short = ReasoningGym(family="chain_sum", size=20, options={"min_terms": 2, "max_terms": 2})
    assert short[0].prompt.count("+") + short[0].prompt.count(" - ") == 1  # two terms, one sign between them
    hashes = {source.content_hash() for source in (plain, short, ReasoningGym(family="chain_sum", size=21))}
    assert len(hashes) == 3
    assert ReasoningGym(family="chain_sum", size=20, max_tokens=9).content_hash() == plain.content_hash()


@pytest.mark.slow
def test_a_completion_is_right_only_at_the_full_reward() -> None:
    source = ReasoningGym(family="spell_backward", size=5)
    problem = source[0]
    assert problem.answer is not None
    grades = {
        text: source.grade(problem, text, "stop").outcome
        for text in (rf"\boxed{{{problem.answer}}}", problem.answer[:-1], "")
    }
    assert list(grades.values()) == [Outcome.correct, Outcome.wrong, Outcome.no_answer]
    assert source.grade(problem, problem.answer, "length").outcome is Outcome.truncated
    assert source.grader == "reasoning-gym-0.1.25/1"


@pytest.mark.slow
def test_a_grader_that_raises_gives_the_grade_error(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ReasoningGym(family="spell_backward", size=5)
    problem = source[0]
    broken = Rewards(lambda answer, gold: 1 / 0)
    monkeypatch.setattr("tokensweep.problems.reasoning_gym._dataset", lambda family, options: broken)
    assert source.grade(problem, "x", "stop").outcome is Outcome.error


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (r"so \boxed{3} and 4", ("3", "boxed")),
        (r"so \boxed{3}. <answer>4</answer>", ("4", "answer_tag")),
        ("<answer>3</answer> or rather <answer> 4 </answer>", ("4", "answer_tag")),
        ("3 + 4\n\n7  \n", ("7", "last_line")),
        ("<think>\n<answer>3</answer></think>\n5", ("5", "last_line")),
        ("<think>\n5", (None, "none")),  # the thought never ends
        ("  \n", (None, "none")),
    ],
)
def test_the_answer_is_in_the_last_tag_else_in_the_last_box_else_the_last_line(
    text: str, read: tuple[str | None, str]
) -> None:
    assert read_answer(text, finished=True) == read


def test_the_last_line_of_a_text_that_was_cut_off_is_no_answer() -> None:
    assert read_answer("3 + 4\n7", finished=False) == (None, "none")
    assert read_answer("<answer>7</answer>\n", finished=False) == ("7", "answer_tag")


@pytest.mark.slow
def test_the_tiny_model_refuses_problems_without_demonstrations(tmp_path: Path) -> None:
    source = ReasoningGym(family="chain_sum", size=5)
    with pytest.raises(ValueError, match=r"got chain_sum, which has none.*model=smollm2_135m"):
        TinyModel().materialise(data=source, cache=tmp_path)


def test_family_and_options_are_given_on_the_command_line() -> None:
    typed = [
        "model=smollm2_135m",
        "data=reasoning_gym",
        "data.family=products",
        "data.options={min_terms: 2}",
    ]
    config = freeze_run([*typed, "eval.held_out=6"])
    source = build(config["data"])
    assert (source.name, dict(source.options), source.split) == ("products", {"min_terms": 2}, "train")
    held_out = build(config["eval"]["suites"]["products"])
    assert (held_out.split, held_out.size, dict(held_out.options)) == ("test", 6, {"min_terms": 2})


def test_a_family_must_be_named() -> None:
    with pytest.raises(ValueError, match=r"these keys need a value: data\.family"):
        freeze_run(["data=reasoning_gym"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size and max_tokens must be >= 1"),
        ({"options": 3}, "data.options must be a mapping"),
        ({"instruction": "Solve it."}, "exactly once"),
    ],
)
def test_a_field_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReasoningGym(family="chain_sum", **fields)
