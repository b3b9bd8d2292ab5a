"""The last number of a text in prose, if it stands by itself."""

from __future__ import annotations

import re

from tokensweep.verifier.normal import TEXT, UNITS

_DASHES = "-−–—‐‑‒﹣－"
_TO_HYPHEN = str.maketrans(dict.fromkeys(_DASHES, "-"))
_NEAR = 200  # characters before a number in which what it may be a part of begins

_MARKUP = (  # what stands around an answer and says nothing about it
    (re.compile(r"<<[^<>\n]*>>"), ""),  # the calculator notes of GSM8K
    (re.compile(r"</?[a-zA-Z][^<>\n]*>"), ""),
    (re.compile(r"(?<![\w*)])\*{1,3}(?=\S)([^*\n]+)\*{1,3}(?![\w*(])"), r" \1 "),  # bold, italic
    (TEXT, r" \1 "),
    (re.compile(rf"(?<=[{_DASHES}+])\\?[$€£]"), ""),
    (
        re.compile(r"\\[()\[\]]|\\?[$€£]|`|\\[;:! ]|\\,(?!\d{3})|\\(?:displaystyle|quad|qquad)(?![a-zA-Z])"),
        " ",
    ),
)
_SIGN = rf"[{_DASHES}+]"
_INTEGER = rf"\{{\s*{_SIGN}?\d+\s*\}}"
_FRACTION = rf"(?:\d+ ?)?\\[dtc]?frac(?:{_INTEGER}{_INTEGER}|\d\d(?!\d))|(?:\d+ )?\d+ ?/ ?\d+(?![\d.])"
_DECIMAL = r"(?:\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])\.\d+"
_POWER_OF_TEN = r"(?:\\times|\\cdot|×|·|⋅)\s*10\s*\^\s*(?:\{[-+−]?\d+\}|\d)(?!\d)"
_TOKEN = re.compile(
    r"\\(?![dtc]?frac)[a-zA-Z]+|[A-Za-z_][A-Za-z_\d]*"  # a command; a word or a name such as x1
    rf"|(?P<number>{_SIGN}?(?:{_FRACTION}|\d+\.\d+[eE][-+]?\d+|(?:{_DECIMAL})(?:\s*{_POWER_OF_TEN})?))"
)

_NEUTRAL = r"(?:approx|implies|Rightarrow|rightarrow|therefore|because|square|blacksquare|checkmark)"
_PART_OF_WHAT_IS_BEFORE = re.compile(
    r"[A-Za-z\d_.\\\])}π]\Z"  # x_, 1., )
    r"|\{\s*\Z|\}[ \t]*\Z"  # ^{ _{ \sqrt{
    r"|[\w)\]}][(\[]\s*\Z"  # f(
    r"|[(\[][^()\[\]]*[,;][^()\[\]]*\Z"  # (3,
    r"|(?<![A-Za-z_\d.])\d[\d.]*[ \t%]*(?:,|;|(?:,\s*)?\b(?:and|or))\s*\Z"  # 3 and
    r"|(?<![A-Za-z])([A-Za-z])\s*=[^=]*\d\s*(?:,|;|\b(?:and|or))\s*\1\s*=\s*\Z"  # x = 3 or x =
    r"|\d[ \t]+\Z|\d[ \t]*:\Z|\d[ \t]+:[ \t]*\Z"  # 5 8, 10:30
    rf"|[{_DASHES}+*/^×·⋅÷±∓√∑∫|<≤≥≠_]\s*\Z|(?<![-=])>\s*\Z"
    r"|(?<![A-Za-z])(?:sqrt|log|ln|exp|sin|cos|tan|mod)\s*\Z"
    rf"|\\(?!{_NEUTRAL}(?![a-zA-Z]))[a-zA-Z]+\s*\Z"
)
_MINUS_AND_NO_SIGN = re.compile(r"[\d%!)\]}][ \t]*\Z|(?<![A-Za-z])[A-Za-z][ \t]*\Z")  # 10 -3, x -3
_SINGLE = r"(?!(?:[mgshL]|[aI](?=\s[A-Za-z]))(?![A-Za-z]))[A-Za-z](?![A-Za-z])"  # a letter, no unit or word
_PART_OF_WHAT_IS_AFTER = re.compile(
    rf"(?!(?:{UNITS}|st|nd|rd|th|am|pm)(?![A-Za-z]))[A-Za-z]"  # 2x
    r"|[_(\[{!]|\.\.|…|\.?\d"
    rf"|[ \t]*(?:[+*/×·⋅÷±∓√<>≤≥≠π∞|](?!(?<=/)[A-Za-z]{{2}})|\^(?!\s*\{{?\s*\\(?:circ|degree)))"
    rf"|[{_DASHES}](?![A-Za-z]{{2}})|[ \t]+[{_DASHES}](?!\s*[A-Za-z]{{3}})"  # but 18-year-old, 18 - that is
    rf"|[ \t]*\\(?![%\\]|{_NEUTRAL}(?![a-zA-Z])|end\{{)"
    rf"|[ \t]+{_SINGLE}|[ \t]+\((?:[A-Za-z](?![A-Za-z])|\d)"  # 2 x
    r"|[ \t]+(?:hundred|thousand|million|billion|trillion)(?![A-Za-z])",
    re.IGNORECASE,
)
_UNIT_POWER = re.compile(
    r"(?<=[A-Za-z]{2})\s*\^\s*(?:\{[23]\}|[23])(?!\w)|(?<=\d m)\^(?:\{[23]\}|[23])(?!\w)"
)


def last_number(text: str) -> str | None:
    r"""The last number of ``text`` with its sign; None if there is none, or if it is part of something else.

    What is read as a whole: decimals with separators, fractions ``a/b`` and ``\frac{a}{b}`` of integers,
    mixed numbers, and powers of ten such as ``1.5e3`` and ``3 \times 10^8``. A number within a root, a power,
    an index, a sum, a product, a ratio, a list, a tuple or an inequality is no answer, and neither is an
    earlier one. Units, currency, percent, markup and full stops around it do not count.
    """
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    text = _UNIT_POWER.sub("", text)
    found = None
    for match in _TOKEN.finditer(text):
        found = match if match["number"] is not None else found
    if found is None:
        return None
    before, after = text[max(0, found.start() - _NEAR) : found.start()], text[found.end() :]
    signed = found[0][0] in _DASHES + "+"
    if _PART_OF_WHAT_IS_BEFORE.search(before) or (signed and _MINUS_AND_NO_SIGN.search(before)):
        return None
    if _PART_OF_WHAT_IS_AFTER.match(after) or (before.endswith(("(", "[")) and after.startswith((",", ";"))):
        return None
    return found[0].translate(_TO_HYPHEN)
