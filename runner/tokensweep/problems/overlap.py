"""Which problems two sets have in common, whatever was done to the spelling or put around the text.

Compared are the letters and digits of a text, case folded: dollar signs, spaces, punctuation and formatting
do not count. Two problems are the same if their letters and digits are equal, or if those of one lie within
those of the other, from the beginning of a word to the end of one, as where an instruction was added.

A text below :data:`MIN_LENGTH` letters and digits is too short for that ("Compute 3 + 4" is part of many
problems, and equal to "Compute 3 - 4"): it is the same only if its plain text is, signs included, but for
letter case and the punctuation at the end. Reworded or translated problems are not found, and long ones that
differ in nothing but signs count as the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from tokensweep.problems.checks import normalized, plain_text
from tokensweep.problems.protocol import Problem

MIN_LENGTH = 40  # letters and digits; the shortest problem of AIME 2025 has about 55

COMPARED = (
    f"letters and digits, also of a problem within a longer text; below {MIN_LENGTH} of them whole texts only"
)

_WORD = re.compile(r"[^\W_]+")
_IN_NUMBER = re.compile(r"(?<=\d)(?:[.,]|\{,\})(?=\d)")  # so that "it is 2" is no part of "it is 2.5"
_STYLE = re.compile(r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|emph|mbox|operatorname)(?![a-zA-Z])")


@dataclass(frozen=True)
class _Text:
    """The letters and digits of a problem, and where words begin and end in them."""

    letters: str
    starts: tuple[int, ...]
    ends: frozenset[int]


@dataclass(frozen=True)
class _Index:
    """Long texts by their first :data:`MIN_LENGTH` characters and their length, and short ones.

    By length, because all texts of a set may begin with the same instruction.
    """

    long: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    short: set[str] = field(default_factory=set)

    def add(self, text: _Text | str) -> None:
        if isinstance(text, str):
            self.short.add(text)
        else:
            alike = self.long.setdefault(text.letters[:MIN_LENGTH], {})
            alike.setdefault(len(text.letters), set()).add(text.letters)

    def within(self, text: _Text | str) -> Iterator[str]:
        """Indexed texts that are equal to this one or a part of it."""
        if isinstance(text, str):
            if text in self.short:
                yield text
            return
        for start in text.starts:
            for length, alike in self.long.get(text.letters[start : start + MIN_LENGTH], {}).items():
                if start + length in text.ends and (part := text.letters[start : start + length]) in alike:
                    yield part


def shared(problems: Iterable[Problem], others: Iterable[Problem]) -> list[Problem]:
    """Those of ``problems`` that are among ``others`` too, in order, by the rule of this module."""
    mine = [(problem, _text(problem.prompt)) for problem in problems]
    theirs = [_text(problem.prompt) for problem in others]
    index, parts = _Index(), _Index()
    for text in theirs:
        index.add(text)
    for _, text in mine:
        parts.add(text)
    found = {letters for text in theirs for letters in parts.within(text)}
    return [problem for problem, text in mine if _letters(text) in found or any(index.within(text))]


def _letters(text: _Text | str) -> str:
    return text if isinstance(text, str) else text.letters


def _text(problem: str) -> _Text | str:
    """What is compared of a problem; of a short one its plain text."""
    folded = problem.casefold()  # before, for commands in capitals; and after, as normalising makes letters
    words = _WORD.findall(_IN_NUMBER.sub("", _STYLE.sub(" ", normalized(folded))).casefold())
    ends = tuple(accumulate(map(len, words)))
    if not ends or ends[-1] < MIN_LENGTH:
        return plain_text(folded).casefold().rstrip(".?!:;,。")
    return _Text("".join(words), (0, *ends[:-1]), frozenset(ends))
