"""From prompt text to token ids, plain or through the tokenizer's chat template."""

from __future__ import annotations

from typing import Any


def encode_prompt(tokenizer: Any, text: str, *, chat: bool, limit: int | None = None) -> tuple[int, ...]:
    """Token ids of a prompt, ready for the first generated token.

    With ``chat`` the text is one user turn of the tokenizer's template. Raises ValueError for a template that
    is missing, for characters the tokenizer does not know, for an empty prompt and for one above ``limit``
    tokens.
    """
    if chat and not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "the tokenizer has no chat template: set model.chat=false or add chat_template.jinja"
        )
    if chat:
        turns = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tuple(_encode(tokenizer, text, chat=chat))
    if not ids:
        raise ValueError("a prompt must hold at least one token, got an empty text")
    if limit is not None and len(ids) > limit:
        raise ValueError(f"prompt has {len(ids)} tokens, at most {limit} fit: shorten it ({text[:60]!r}...)")
    return ids


def _encode(tokenizer: Any, text: str, *, chat: bool) -> list[int]:
    """Ids of the text; a chat template has already written the special tokens."""
    try:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=not chat)
    except Exception as error:  # tokenizers raises a bare Exception for a character without a token
        if "UNK" not in str(error):
            raise
        raise ValueError(f"the tokenizer has no token for some character of {text!r}") from error
    return ids
