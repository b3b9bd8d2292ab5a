"""Answers that can be told equal or different by their text alone, without a process."""

from __future__ import annotations

import re

from tokensweep.verifier.normal import canonical
from tokensweep.verifier.words import choice, unit, words

_INTEGER = re.compile(r"-?\d+")
_PLAIN = re.compile(r"-?(?:\d+(?:\.\d+|/\d+)?|\\frac\{-?\d+\}\{\d+\}|\(-?\d+(?:,-?\d+)+\)|[a-zA-Z])")


def decide(gold: str, answer: str) -> bool | None:
    """True or False where the text decides, None where mathematics must.

    Integers, identical canonical strings, words, letters of a multiple choice and two different units decide.
    Words are compared here only: as mathematics ``east`` would be a product and equal to ``seat``.
    """
    if words(gold) is not None:
        return words(gold) == words(answer)
    if re.fullmatch(r"[A-J]", choice(gold) or "") and choice(answer) is not None:
        return choice(gold) == choice(answer)
    if len({unit(gold), unit(answer)} - {None}) > 1:
        return False
    left, right = canonical(gold), canonical(answer)
    if left == right:
        return bool(left)
    if not right or (_INTEGER.fullmatch(left) and _INTEGER.fullmatch(right)):
        return False
    return None


def is_plain(gold: str) -> bool:
    """Whether a reference answer is of a kind that can be read for certain: a number, a fraction, a word."""
    return words(gold) is not None or _PLAIN.fullmatch(canonical(gold)) is not None
