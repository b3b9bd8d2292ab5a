"""Answers that are words, letters of a multiple choice, or numbers with a unit."""

from __future__ import annotations

import re

from tokensweep.verifier.normal import LABEL, NO_SOLUTION, TEXT, unwrap

_OPTION = re.compile(r"(?:[Oo]ption|[Cc]hoice|[Aa]nswer) \(?([A-J])\)?")
_UNIT_NAME = re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*([A-Za-z]+)\s*\}$|(?<![A-Za-z\\])([A-Za-z]{2,})$")
_SYMBOL_OF = {
    name: symbol
    for symbol, names in {
        "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "m": "m meter metre",
        "km": "km kilometer kilometre", "in": "in inch inche", "ft": "ft foot feet", "yd": "yd yard",
        "mi": "mi mile", "g": "g gram", "kg": "kg kilogram", "lb": "lb pound",
        "s": "sec second", "min": "min minute", "h": "h hr hour", "d": "day", "wk": "week",
        "mo": "month", "y": "year", "ct": "cent", "$": "dollar",
    }.items()
    for name in names.split()
}  # fmt: skip


def words(answer: str) -> str | None:
    """The answer in small letters if it is words, such as ``\\text{east}``; None if it is mathematics.

    Bare letters count as a word from four on: ``east`` does, ``xyz`` is a product. No solution is no word but
    the empty set.
    """
    text = unwrap(answer)
    plain = re.sub(r"\s+", " ", TEXT.sub(r" \1 ", text)).strip(" .")
    least = 2 if plain != text else 4
    if not re.fullmatch(r"[A-Za-z][A-Za-z' -]*", plain) or len(plain) < least or NO_SOLUTION.fullmatch(plain):
        return None
    return plain.casefold()


def choice(answer: str) -> str | None:
    """The letter of a multiple choice, with or without what it stands for; None if there is none."""
    plain = TEXT.sub(r"\1", unwrap(answer)).strip()
    if re.fullmatch(r"[A-J]", plain):
        return plain
    match = LABEL.match(plain) or _OPTION.fullmatch(plain)
    return next(filter(None, match.groups())) if match else None


def unit(answer: str) -> str | None:
    """The unit at the end of an answer by its symbol, such as ``cm``; None without one that is known."""
    name = _UNIT_NAME.search(unwrap(answer))
    if name is None or not re.search(r"\d", answer):
        return None
    word = (name[1] or name[2]).casefold()
    return _SYMBOL_OF.get(word) or _SYMBOL_OF.get(word.removesuffix("s"))
