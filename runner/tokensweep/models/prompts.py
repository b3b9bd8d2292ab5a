"""From the text of a problem to token ids: the wrapping that a family of models expects.

The data's ``instruction`` says which form of answer the verifier reads; the group ``prompt`` says how that
text is put to the model. Training and evaluation use the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from tokensweep.problems.protocol import ProblemSource
from tokensweep.registry import build, component
from tokensweep.verifier import opened_thought

Encode = Callable[[str], tuple[int, ...]]
Decode = Callable[[tuple[int, ...]], str]

_SLOT = "{prompt}"


class OverLimit(StrEnum):
    """What becomes of a problem whose prompt has more than ``max_tokens`` tokens."""

    refuse = "refuse"  # nothing starts
    drop = "drop"  # it is left out, and counted


class Prompt(Protocol):
    """How the text of a problem is put to the model."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end a completion."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """The most tokens a prompt may have; None: any number."""
        ...

    @property
    def over_limit(self) -> OverLimit:
        """What becomes of longer ones."""
        ...

    def encode(self, tokenizer: Any, text: str, *, chat: bool) -> tuple[int, ...]:
        """Token ids up to the first generated one; ``chat`` is what the model says of itself.

        Raises ValueError for a missing chat template, a character without a token and an empty prompt.
        """
        ...


@dataclass(frozen=True)
class _Limited:
    """The length limit, which all prompts share."""

    max_tokens: int | None = None  # of the whole prompt, special tokens included; null: any
    over_limit: OverLimit = OverLimit.refuse

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")


@component("prompt", "model")
@dataclass(frozen=True)
class ModelPrompt(_Limited):
    """What the model says (``model.chat``): a user turn of the tokenizer's template, or the plain text."""

    stop: ClassVar[tuple[str, ...]] = ()

    def encode(self, tokenizer: Any, text: str, *, chat: bool) -> tuple[int, ...]:
        """Token ids of the turn or of the text."""
        return encode_prompt(tokenizer, text, chat=chat)


@component("prompt", "chat")
@dataclass(frozen=True)
class ChatPrompt(_Limited):
    """A user turn of the tokenizer's template, after a system turn if there is a text for it."""

    system: str = ""
    stop: tuple[str, ...] = ()

    def encode(self, tokenizer: Any, text: str, *, chat: bool) -> tuple[int, ...]:
        """Token ids of the turns, whatever the model says."""
        return encode_prompt(tokenizer, text, chat=True, system=self.system)


@component("prompt", "base")
@dataclass(frozen=True)
class BasePrompt(_Limited):
    """Plain text for base models, with the problem in its place; the chat template is not used."""

    template: str = _SLOT
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template.count(_SLOT) != 1:
            raise ValueError(f"template must contain {_SLOT} exactly once, got {self.template!r}")

    def encode(self, tokenizer: Any, text: str, *, chat: bool) -> tuple[int, ...]:
        """Token ids of the filled template, whatever the model says."""
        return encode_prompt(tokenizer, self.template.replace(_SLOT, text), chat=False)


def prompt_of(config: Mapping[str, Any]) -> Prompt:
    """The prompt of a frozen config; what the model says where it names none."""
    prompt: Prompt = build(config["prompt"]) if config.get("prompt") else ModelPrompt()
    return prompt


def fitting(prompt: Prompt, source: ProblemSource, encode: Encode) -> tuple[int, ...]:
    """Indices of the problems whose prompt is within the limit, in order.

    Raises ValueError with id and both numbers for a longer one that is to be refused, and when none is left.
    """
    if prompt.max_tokens is None:
        return tuple(range(len(source)))
    kept = []
    for index in range(len(source)):
        length = len(encode(source.prompt_text(source[index])))
        if length <= prompt.max_tokens:
            kept.append(index)
        elif prompt.over_limit is OverLimit.refuse:
            raise ValueError(
                f"{source.name}: the prompt of {source[index].id} has {length} tokens, prompt.max_tokens is "
                f"{prompt.max_tokens}: raise it, or leave longer ones out with prompt.over_limit=drop"
            )
    if not kept:
        raise ValueError(f"{source.name}: every prompt has more than prompt.max_tokens={prompt.max_tokens}")
    return tuple(kept)


def answer_text(decode: Decode, *, prompt_ids: tuple[int, ...], completion_ids: tuple[int, ...]) -> str:
    """The text of a completion as it is graded and stored: with the ``<think>`` that its prompt ended with.

    Whoever reads the text later, without prompt or tokenizer, then still knows where the thought began.
    """
    return opened_thought(decode(prompt_ids)) + decode(completion_ids)


def encode_prompt(tokenizer: Any, text: str, *, chat: bool, system: str = "") -> tuple[int, ...]:
    """Token ids of a prompt, ready for the first generated token.

    With ``chat`` the text is one user turn of the tokenizer's template. Raises ValueError for a template that
    is missing, for characters the tokenizer does not know and for an empty prompt.
    """
    if chat and not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "the tokenizer has no chat template: choose prompt=base (or model.chat=false), "
            "or add chat_template.jinja to the model"
        )
    if chat:
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": text})
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tuple(_encode(tokenizer, text, chat=chat))
    if not ids:
        raise ValueError("a prompt must hold at least one token, got an empty text")
    return ids


def _encode(tokenizer: Any, text: str, *, chat: bool) -> list[int]:
    """Ids of the text; a chat template has already written the special tokens."""
    try:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=not chat)
    except Exception as error:  # tokenizers raises a bare Exception for a character without a token
        if "UNK" not in str(error):
            raise
        raise ValueError(
            f"the tokenizer has no token for some character of {text!r}: "
            "choose another prompt (prompt=model adds nothing), or a model that reads text"
        ) from error
    return ids
