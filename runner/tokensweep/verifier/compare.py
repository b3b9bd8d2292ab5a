"""Whether two answers are equal, with math-verify and SymPy: runs only inside a worker process.

Nothing here limits time or memory; the worker that calls it is killed at its limit. math-verify compares
expressions, equations and matrices; numbers, lists, intervals and chains are compared here, because it
takes decimals that agree to six places for equal, is not symmetric, and accepts a chain for its last side.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from sympy import I, Intersection, Rational, S, Set, Union
from sympy.core.expr import Expr

from tokensweep.verifier.normal import TRIGONOMETRY, canonical, tidy
from tokensweep.verifier.shape import RELATION, Shape, read, sides_of, split
from tokensweep.verifier.words import unit

_DECIMAL = re.compile(r"[-+]?\d+\.(\d+)")
_IN_BASE = re.compile(r"(\d[0-9A-Z]*)_\{?(\d+)\}?")
_NAME = re.compile(  # x, x_1, f(x), (x,y)
    r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([^()]*\))?'*|\( ?[a-zA-Z](?:, ?[a-zA-Z])* ?\)"
)
_MODULUS = re.compile(r"\s*\(?\\[pb]?mod\s*(?:\{[^{}]*\}|\d+)\)?\s*$")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\{\\circ\}")
_NORMALISATION = NormalizationConfig(boxed="none")  # the rest is done by tidy
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_DIGITS = 60  # to which constants are evaluated
_TOLERANCE = 45  # digits in which equal constants agree
_LEAST_DECIMALS = 6  # places and significant digits of a decimal that stands for an exact value


def equal(gold: str, answer: str) -> bool:
    """Whether ``answer`` is the value that ``gold`` is.

    An answer may be a chain such as ``x = 3 + 4 = 7`` if its numeric sides agree; of a reference that is an
    equation the name on its left may be left out.
    """
    if bool(_MODULUS.search(gold)) != bool(_MODULUS.search(answer)):  # a residue may come with its modulus
        gold, answer = (_MODULUS.sub("", text).replace(r"\equiv", "=") for text in (gold, answer))
    gold_sides, sides = sides_of(gold), sides_of(answer)
    if len(sides) > 1:
        if not _consistent(sides):
            return False
        if len(gold_sides) == 1:
            answer = _result(sides)
    elif len(gold_sides) > 1:
        if not _NAME.fullmatch(tidy(gold_sides[0])):
            return False
        gold = gold_sides[-1]
    return _same(read(gold), read(answer))


def understood(gold: str) -> bool:
    """Whether every part of a reference answer can be read, so that another notation of it can be right."""
    parts = read(sides_of(gold)[-1]).parts
    return all(_same_value(part, part) for part in parts)


def _consistent(sides: list[str]) -> bool:
    """Whether the numeric sides of a chain are one number; sides with different units are not compared."""
    if len({unit(side) for side in sides} - {None}) > 1:
        return True
    numbers = [text for side in sides if _constant(text := tidy(side)) is not None]
    return all(_same_value(numbers[0], number) for number in numbers[1:])


def _result(sides: list[str]) -> str:
    """The side a chain arrives at: the last that is no mere name, or the first of several units."""
    values = [side for side in sides if not _NAME.fullmatch(tidy(side))] or sides
    return values[0] if len({unit(side) for side in values} - {None}) > 1 else values[-1]


def _same(gold: Shape, answer: Shape) -> bool:
    """Whether the lists hold the same values: in order if one is a tuple, in any order otherwise."""
    if RELATION.search(gold.text) or RELATION.search(answer.text):
        return _same_region(gold.text, answer.text)
    kinds = {gold.brackets, answer.brackets}
    if len(gold.parts) != len(answer.parts):
        return False
    if len(gold.parts) == 1:
        return _same_value(gold.parts[0], answer.parts[0])
    if kinds <= {"", "{}"}:
        return _same_in_some_order(list(gold.parts), list(answer.parts))
    vectors = len(gold.parts) > 2 and kinds <= {"()", "[]", ""}
    if len(kinds) > 1 and kinds != {"", "()"} and not vectors:
        return False
    return all(_same_part(g, a) for g, a in zip(gold.parts, answer.parts, strict=True))


def _same_in_some_order(gold: list[str], answer: list[str]) -> bool:
    """Whether every item has a partner of its own."""
    for part in gold:
        match = next((other for other in answer if _same_part(part, other)), None)
        if match is None:
            return False
        answer.remove(match)
    return True


def _same_part(gold: str, answer: str) -> bool:
    """Equality of two items of a list, each of which may be a tuple or an equation."""
    return canonical(gold) == canonical(answer) or equal(gold, answer)


def _same_value(gold: str, answer: str) -> bool:
    """Equality of two values that are no lists."""
    if _base(gold) != _base(answer):
        return False  # digits without their base are other digits
    left, right = _constant(gold), _constant(answer)
    if left is None or right is None:
        return _verified(_parsed(gold), _parsed(answer))
    if gold.endswith("%") != answer.endswith("%"):  # "30%" answers for 30 and for 0.3
        if gold.endswith("%"):
            return _same_number(left, gold, right, answer) or _same_number(left / 100, "", right, answer)
        return _same_number(left, gold, right, answer) or _same_number(left, gold, right / 100, "")
    return _same_number(left, gold, right, answer)


def _same_region(gold: str, answer: str) -> bool:
    """Equality of inequalities, intervals and their unions: as sets of one unknown, else by math-verify.

    math-verify reads an inequality as a set only if the prediction is a set, hence both directions.
    """
    regions = _region(gold), _region(answer)
    if regions[0] is not None and regions[1] is not None:
        return bool(regions[0] == regions[1] or regions[0].symmetric_difference(regions[1]).is_empty)
    pair = _parsed(gold), _parsed(answer)
    return _verified(*pair) or _verified(*reversed(pair))


def _region(text: str) -> Set | None:
    """The real numbers that satisfy a condition on one unknown, None for anything else."""
    for word, join in (("or", Union), ("and", Intersection)):
        parts = split(text, separators=(word,))
        if len(parts) > 1:
            regions = [_region(part) for part in parts]
            return None if None in regions else join(*regions)
    value = _parsed(text)
    if isinstance(value, Set):
        return value
    try:
        return value.as_set() if len(value.free_symbols) == 1 else None
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return None  # no condition, or one that SymPy cannot solve


def _same_number(left: Expr, left_text: str, right: Expr, right_text: str) -> bool:
    """Equality of constants: exact, or a decimal that stands for a value which no decimal can be.

    The rule: a decimal of at least six places and six significant digits that the value rounds to, or is cut
    off to, is right if the value is irrational or its decimals never end: 0.333333 is 1/3. A value whose
    decimals end has to be met: 11.999999999 is not 12.
    """
    decimals = [_DECIMAL.fullmatch(text.rstrip("\\%")) for text in (left_text, right_text)]
    if left.is_Rational and right.is_Rational and left == right:
        return True
    if decimals[0] and not decimals[1]:
        return _rounds_to(right, decimal=left, places=len(decimals[0][1]))
    if decimals[1] and not decimals[0]:
        return _rounds_to(left, decimal=right, places=len(decimals[1][1]))
    if left.is_Rational and right.is_Rational:
        return False
    if left.is_infinite or right.is_infinite:
        return bool(left == right)
    return _close(left, right)


def _rounds_to(exact: Expr, *, decimal: Expr, places: int) -> bool:
    """Whether ``decimal`` is the endless value rounded or cut off at ``places``, enough of them."""
    if exact.is_Rational and _decimals_end(exact):
        return False
    scaled = abs(decimal * 10**places)
    if places < _LEAST_DECIMALS or scaled < 10 ** (_LEAST_DECIMALS - 1) or not exact.is_real:
        return False
    digits = _DIGITS + places + len(str(scaled))
    distance = abs(exact.evalf(digits) - decimal.evalf(digits)) * 10**places
    inward = abs(exact.evalf(digits)) > abs(decimal.evalf(digits))
    return bool(distance < (1 if inward else S.Half))


def _decimals_end(value: Expr) -> bool:
    """Whether a rational number has finitely many decimals: its denominator divides a power of ten."""
    denominator = int(value.q)
    return bool(pow(10, denominator.bit_length(), denominator) == 0)


def _close(left: Expr, right: Expr) -> bool:
    """Whether constants agree to 45 digits, counted from the unit place or from their first digit."""
    rough = abs(left.evalf(5))
    magnitude = len(str(int(rough))) if rough.is_comparable and rough > 1 else 0
    values = [value.evalf(_DIGITS + magnitude) for value in (left, right)]
    if not all(value.is_number and value.is_finite for value in values):
        return False
    scale = min(abs(values[0]), 1) if values[0] != 0 else 1
    return bool(abs(values[0] - values[1]) <= scale * Rational(1, 10**_TOLERANCE))


def _constant(text: str) -> Expr | None:
    """The number that a text stands for, with decimals as exact fractions; None if it is none."""
    base = _IN_BASE.fullmatch(text.replace(" ", ""))
    if base:
        try:
            return Rational(int(base[1], int(base[2])))
        except ValueError:
            return None  # a digit that the base does not have, or no such base
    decimal = _DECIMAL.fullmatch(text.rstrip("\\%"))
    if decimal:
        return Rational(decimal[0])
    value = _parsed(text.rstrip("\\%"))
    if not isinstance(value, Expr) or value.free_symbols:
        return None
    value = value.doit()
    return value if value.is_number and value not in (S.NaN, S.ComplexInfinity) else None


def _base(text: str) -> str:
    """The base that the digits of a number are in."""
    match = _IN_BASE.fullmatch(text.replace(" ", ""))
    return match[2] if match else "10"


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """The SymPy object that a text stands for, None if it cannot be read."""
    if TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    try:
        value = latex2sympy(
            _DEGREES.sub(r"\1", text),
            is_real=True,
            convert_degrees=False,
            normalization_config=_NORMALISATION,
            conversion_config=_CONVERSION,
        )
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # the parser raises whatever its generated code meets
        return None
    return _exact(value)


def _exact(value: Any) -> Any:
    """The value with decimals as fractions and ``i`` as the imaginary unit."""
    if not isinstance(value, Expr):
        return value
    exact = value.replace(lambda part: part.is_Float, lambda part: Rational(str(part)))
    return exact.subs({symbol: I for symbol in exact.free_symbols if symbol.name == "i"})


def _verified(gold: Any, answer: Any) -> bool:
    """The verdict of math-verify on two SymPy objects; False if either could not be read."""
    return gold is not None and answer is not None and bool(verify(gold, answer, timeout_seconds=None))
