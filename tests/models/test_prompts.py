"""How a problem is put to a model: templates, what they end with, and which prompts are too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tokensweep.compose import register_components
from tokensweep.models.prompts import (
    BasePrompt,
    ChatPrompt,
    ModelPrompt,
    OverLimit,
    Prompt,
    answer_text,
    fitting,
    prompt_of,
)
from tokensweep.paths import conf_dir
from tokensweep.problems.ops import Ops
from tokensweep.registry import build
from tokensweep.verifier import MARKER, extract, stated_confidence

register_components()


@dataclass
class Tokenizer:
    """A character is a token; a start token stands before plain text; turns are role and text in brackets."""

    chat_template: str | None = "a template"

    def apply_chat_template(
        self, turns: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert add_generation_prompt
        assert not tokenize
        return "".join(f"[{turn['role'][0]} {turn['content']}]" for turn in turns)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [ord(character) for character in ("^" if add_special_tokens else "") + text]


def text_of(prompt: Prompt, *, chat: bool, **options: Any) -> str:
    return "".join(chr(token) for token in prompt.encode(Tokenizer(**options), "1+1", chat=chat))


def shipped(name: str) -> Prompt:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        node = OmegaConf.to_container(compose(overrides=[f"+prompt={name}"]))
    assert isinstance(node, dict)
    prompt: Prompt = build(node["prompt"])
    return prompt


def test_the_default_is_what_the_model_says() -> None:
    assert text_of(ModelPrompt(), chat=True) == "[u 1+1]"
    assert text_of(ModelPrompt(), chat=False) == "^1+1"
    assert prompt_of({}) == prompt_of({"prompt": {"_component_": "prompt/model"}}) == ModelPrompt()


@pytest.mark.parametrize("chat", [True, False])
def test_a_chosen_prompt_holds_whatever_the_model_says(chat: bool) -> None:
    assert text_of(ChatPrompt(), chat=chat) == "[u 1+1]"
    assert text_of(ChatPrompt(system="Be brief."), chat=chat) == "[s Be brief.][u 1+1]"
    assert text_of(BasePrompt(), chat=chat) == "^1+1"
    assert text_of(BasePrompt(template="Q: {prompt}\nA:"), chat=chat) == "^Q: 1+1\nA:"
    with pytest.raises(ValueError, match="no chat template: choose prompt=base"):
        text_of(ChatPrompt(), chat=chat, chat_template=None)


def test_the_template_of_qwen_math_has_its_turns_and_ends_where_the_answer_begins() -> None:
    text = text_of(shipped("qwen_boxed"), chat=False)
    assert text.startswith(
        "^<|im_start|>system\nPlease reason step by step, and put your final answer within "
    )
    assert text.endswith("\\boxed{}.<|im_end|>\n<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n")


def test_the_template_of_r1_zero_begins_a_thought_and_its_answer_is_found() -> None:
    prompt = shipped("r1_zero")
    text = text_of(prompt, chat=False)
    assert text.startswith("^A conversation between User and Assistant. The User asks a question, and the ")
    assert text.endswith(" <answer> answer here </answer>.\nUser: 1+1\nAssistant: <think>")
    assert "  " not in text
    assert prompt.stop == ("</answer>",)
    completion = r"perhaps \boxed{3} </think> <answer> \boxed{2} </answer>"
    assert extract(_after(text, completion), finished=True)[0] == "2"


@pytest.mark.parametrize("completion", [r"perhaps \boxed{3}", " it is 3", " so <answer> 3 </answer>"])
def test_an_answer_before_the_thought_that_the_prompt_opened_has_ended_is_none(completion: str) -> None:
    text = text_of(shipped("r1_zero"), chat=False)
    assert extract(_after(text, completion), finished=True) == (None, "none")


@pytest.mark.parametrize("name", ["verbal_confidence", "stated_uncertainty"])
def test_prompts_show_the_statement_of_confidence_that_is_read(name: str) -> None:
    text = text_of(shipped(name), chat=False)
    assert stated_confidence(text.partition("]")[0]) == 0.5
    assert text.endswith("[u 1+1]")


@pytest.mark.parametrize("name", ["uncertain_marker", "stated_uncertainty"])
def test_prompts_name_the_marker_that_is_read(name: str) -> None:
    assert MARKER in text_of(shipped(name), chat=False)


@pytest.mark.parametrize("prompt", ["Think in <think> </think>: 1+1", "<think>\n\n</think>\n\n", "1+1="])
def test_a_prompt_that_ends_outside_a_thought_opens_none(prompt: str) -> None:
    assert _after(prompt, r"\boxed{3}") == r"\boxed{3}"


def _after(prompt: str, completion: str) -> str:
    ids = (tuple(map(ord, text)) for text in (prompt, completion))
    return answer_text(lambda ids: "".join(map(chr, ids)), prompt_ids=next(ids), completion_ids=next(ids))


@pytest.mark.parametrize("template", ["no place", "{prompt} {prompt}"])
def test_a_template_without_one_place_for_the_problem_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"template must contain \{prompt\} exactly once"):
        BasePrompt(template=template)


def _encode(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def test_prompts_above_the_limit_are_refused_with_id_and_both_numbers() -> None:
    task = Ops(size=4, steps=2)  # "1A2B3=": one digit, two operations of two characters, the equals sign
    assert fitting(ModelPrompt(max_tokens=6), task, _encode) == (0, 1, 2, 3)
    assert fitting(ModelPrompt(), task, _encode) == (0, 1, 2, 3)
    with pytest.raises(
        ValueError, match=r"prompt of ops-train-0 has 6 tokens, prompt.max_tokens is 5: .*over_limit=drop"
    ):
        fitting(ModelPrompt(max_tokens=5), task, _encode)


def test_prompts_above_the_limit_are_dropped_where_that_is_chosen() -> None:
    task = Ops(size=4, steps=2)
    limit = ModelPrompt(max_tokens=5, over_limit=OverLimit.drop)
    first = task[0].prompt
    assert fitting(limit, task, lambda text: (0,) * (9 if text == first else 3)) == (1, 2, 3)
    with pytest.raises(ValueError, match=r"ops: every prompt has more than prompt\.max_tokens=5"):
        fitting(limit, task, _encode)
    with pytest.raises(ValueError, match="max_tokens must be at least 1, got 0"):
        ModelPrompt(max_tokens=0)
