"""The parts of an answer, by its text: sides of a chain, items of a list, brackets around them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokensweep.verifier.normal import tidy

RELATION = re.compile(r"<|>|\\(?:le|ge|lt|gt|ne|in|cup|cap|setminus|mathbb)(?![a-zA-Z])")

_INEQUALITY = re.compile(r"<|>|\\(?:le|ge|lt|gt|ne)(?![a-zA-Z])")
_MEMBER = re.compile(r"^[a-zA-Z]\s*\\in(?![a-zA-Z])")  # x \in
_BUILDER = re.compile(  # {x | ...}
    r"\\\{\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\\mid|\\vert|\||:)(.*)\\\}", re.DOTALL
)
_CONDITION = re.compile(  # , x \ne 1
    r"(?<=\S)\s*(?:[,;]|\bfor\b|\bwhere\b|\bif\b)\s*[a-zA-Z]\s*\\(?:neq?(?![a-zA-Z])|in\s*\\mathbb).*$"
)
_APPROXIMATELY = re.compile(r"\\(?:approx|simeq|cong)(?![a-zA-Z])|≈")
_EQUALS = re.compile(r"(?<![\\<>!:])=")
_OPENING, _CLOSING = ("(", "[", "{", r"\{"), (")", "]", "}", r"\}")
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\s(?:and|or)\s|[^\\]", re.DOTALL)


@dataclass(frozen=True)
class Shape:
    """An answer as a list of values."""

    text: str  # tidy, without "x in", set builder and conditions
    brackets: str  # what encloses the list, such as "()" or "[)"; "" for a bare list or a single value
    parts: tuple[str, ...]


def sides_of(text: str) -> list[str]:
    """The sides of an equation or a chain; of ``a \\approx b`` only the exact side.

    One side for a list of equations and for inequalities, which are no chains of equal values.
    """
    exact = next((part for part in _APPROXIMATELY.split(text) if part.strip(" $")), "")
    if len(split(tidy(exact), separators=(",", ";", "and", "or"))) > 1 or _INEQUALITY.search(exact):
        return [exact]
    return [side for side in _EQUALS.split(exact) if side.strip()] or [exact]


def read(text: str) -> Shape:
    """The list of values in one side of an answer; each ``\\pm`` gives two."""
    text = _BUILDER.sub(r"\1", _MEMBER.sub("", tidy(text)))
    text = _CONDITION.sub("", text.replace(r"\langle", "(").replace(r"\rangle", ")")).strip()
    brackets, inner = _brackets(text)
    parts = split(inner, separators=(",",)) if brackets else []
    if brackets != "{}" and (len(parts) < 2 or r"\pm" in text):  # a point with \pm is two points
        brackets = ""
        parts = split(text, separators=(",", ";") if RELATION.search(text) else (",", ";", "and", "or"))
    return Shape(text, brackets, tuple(signed for part in parts for signed in _signed(part)))


def split(text: str, *, separators: tuple[str, ...]) -> list[str]:
    """The parts between separators outside brackets; empty ones are left out."""
    parts, depth = [""], 0
    for token in _TOKEN.findall(text):
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0 and token.strip() in separators:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts if part.strip()]


def _brackets(text: str) -> tuple[str, str]:
    """The brackets that enclose the whole text and what is inside; ("", text) without any."""
    tokens = _TOKEN.findall(text)
    if len(tokens) < 2 or tokens[0] not in ("(", "[", r"\{") or tokens[-1] not in (")", "]", r"\}"):
        return "", text
    depth = 0
    for index, token in enumerate(tokens):
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0 and index < len(tokens) - 1:
            return "", text
    return tokens[0][-1] + tokens[-1][-1], "".join(tokens[1:-1])


def _signed(text: str) -> list[str]:
    r"""Both readings of ``\pm``, the text itself without one; the upper signs belong together."""
    if r"\pm" not in text and r"\mp" not in text:
        return [text]
    upper, lower = (r"\pm", r"\mp"), (r"\mp", r"\pm")
    return [text.replace(plus, "+").replace(minus, "-") for plus, minus in (upper, lower)]
