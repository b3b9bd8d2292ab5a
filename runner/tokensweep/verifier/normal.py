"""One notation for one answer: repairs that math-verify needs, and a canonical string that may decide alone.

Everything here rewrites text and evaluates nothing. :func:`tidy` gives LaTeX that math-verify reads as its
writer meant it; :func:`canonical` goes on to a string in which equal answers often are equal.
"""

from __future__ import annotations

import re
import unicodedata

TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")  # where a degree is no mere unit

_WRAPPED = re.compile(
    r"\\(?:boxed|fbox)\s*\{(.*)\}|\\\((.*)\\\)|\\\[(.*)\\\]|\$+([^$]*)\$+|\*\*(.*)\*\*", re.DOTALL
)
TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}"
)
LABEL = re.compile(r"\(?([A-J])\)|([A-J])[.:]")  # of a multiple choice, before what it stands for
_LEAD_IN = re.compile(
    r"(?:[A-Za-z]{2,}[\s,]+)+(?:is|are|equals|be)\b\s*:?"  # The answer is
    r"|[A-Za-z]{2,}(?:\s+[A-Za-z]{2,})*\s*:"  # Final answer:
    r"|(?:approximately|exactly|about)\b"
)
_FRACTION_SLASH = re.compile(r"(\d+)\u2044(\d+)")
_MIXED = re.compile(r"(?<![\w.}])(\d+) +(\d+)/(\d+)(?![\w.])")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?")
_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_INTEGER = re.compile(r"([-+]?)(\d+|\d{1,3}(?:,\d{3})+)(?:\.0*)?")
UNITS = (  # without \text only names of several letters: a single letter is a variable
    r"(?:(?:square|sq\.?|cubic|cu\.?)\s*)?(?:mm|cm|dm|km|inch(?:es)?|in|feet|foot|ft|yards?|miles?|mi"
    r"|(?:centi|milli|kilo)?met(?:er|re)s?|grams?|kg|mg|pounds?|lbs?|ounces?|oz|hours?|hrs?|minutes?|mins?"
    r"|seconds?|secs?|days?|weeks?|months?|years?|mph|km/h|m/s|ml|units?|degrees?|dollars?|cents?|liters?|litres?)"
)
_UNIT = re.compile(rf"(?<=[\d}}\s])\s*{UNITS}(?:\s*\^\s*\{{?[23]\}}?)?$", re.IGNORECASE)
_STATEMENT = r"\b(?:and|or|but|is|are|was|were|not?|never|wrong|incorrect|false|impossible)\b"  # not a unit
_TEXT_UNIT = re.compile(
    rf"(?<=[\d}})\s])\s*\\(?:text|mathrm|mbox|textrm)\s*\{{(?!\s*[ie]\s*\}}|[^{{}}]*{_STATEMENT})"
    r"[A-Za-z ./()]*\}(?:\s*\^\s*\{?[23]\}?)?$"
)
_COUNTED = re.compile(  # 12 red apples
    rf"(?<=[\d}}]) (?![A-Za-z ]*{_STATEMENT})[A-Za-z]{{4,}}(?: [a-z]{{2,}})*$"
)
NO_SOLUTION = re.compile(
    r"(?:there (?:is|are) )?no (?:real |such )?(?:solutions?|values?)(?: exists?)?", re.IGNORECASE
)
_ORDINAL = re.compile(r"(?<=\d)\s*\^?\s*\{?\s*(?:st|nd|rd|th)\s*\}?$")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SYMBOLS = {
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^{\circ}", "′": "'",
    "⟨": r"\langle ", "⟩": r"\rangle ",
    "\u200b": "", "\u200e": "", "\u200f": "", "\u2061": "", "\ufeff": "",
}  # fmt: skip
_ARRAY = re.compile(
    r"[(\[] ?\\begin\{(?:matrix|array)\}(?: ?\{[lcr| ]*\})?(.*?)\\end\{(?:matrix|array)\} ?[)\]]"
)
_BLANKS = re.compile(r"\s+")
_REWRITES = (
    (_BLANKS, " "),  # first, and again where blanks are made: other patterns are slow on a long run of them
    (re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\.?"), ""),
    (re.compile(r"\\(?:displaystyle|textstyle|limits|phantom\{[^{}]*\})(?![a-zA-Z])"), ""),
    (re.compile(r"\\(?:text)?color\s*\{[a-zA-Z]+\}|\\underline(?![a-zA-Z])"), ""),
    (re.compile(r"\\(?:small|normalsize|[lL]arge|LARGE|[hH]uge|boldsymbol|bm|bf|rm)(?![a-zA-Z])"), " "),
    (re.compile(r"\\\\\[-?[\d.]+[a-z]+\]"), r"\\\\"),  # \\[2pt]
    (re.compile(r"(?<!\\)\\[,!;:>]"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\(?:quad|qquad|hspace\*?\{[^{}]*\})(?![a-zA-Z])|(?<!\\)\\ |~"), " "),
    (_BLANKS, " "),
    (re.compile(r"\\(?:begin|end)\{(?:aligned|align\*?|gathered|split|equation\*?)\}"), " "),
    (_ARRAY, r"\\begin{pmatrix}\1\\end{pmatrix}"),
    (re.compile(r"\\(begin|end)\{bmatrix\}"), r"\\\1{pmatrix}"),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\[dt]?binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(r"\\binom\s*(\d)\s*(\d)"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?<![\w.])(\d+|[a-z])! ?\^"), r"(\1!)^"),  # n!^2
    (re.compile(r"(\d\.\d+)[eE]([+-]?\d+)(?!\w)"), r"\1\\times 10^{\2}"),
    (re.compile(r"\\leq(?:slant)?(?![a-zA-Z])"), r"\\le"),
    (re.compile(r"\\geq(?:slant)?(?![a-zA-Z])"), r"\\ge"),
    (re.compile(r"\\(?:lvert|rvert|vert)(?![a-zA-Z])"), "|"),
    (re.compile(r"\\(?:varnothing|O)(?![a-zA-Z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\\(?:dots|ldots|cdots)(?![a-zA-Z])"), r"\\ldots "),
    (re.compile(r"\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z])"), " or "),
    (re.compile(r"(?<![a-zA-Z\\])(sqrt|sin|cos|tan|ln|log|exp|pi|infty)(?![a-zA-Z])"), r"\\\1 "),
    (re.compile(r"\\sqrt\s*(?:(\d+)|\(([^()]*)\))"), r"\\sqrt{\1\2}"),
    (re.compile(r"\^\s*\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"\\frac\s*(\d)\s*(?=[\w{\\])"), r"\\frac{\1}"),
    (re.compile(r"(\\frac\{[^{}]*\})\s*([a-zA-Z\d])"), r"\1{\2}"),
    (re.compile(r"(?<![\d.])\.(?=\d)"), "0."),
    (re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![a-zA-Z])"), r"^{\\circ}"),
    (re.compile(r"\\?%"), r"\\%"),
    (re.compile(r"\\?\$|\\#|\\pounds|€|£"), ""),
)  # fmt: skip


def unwrap(text: str) -> str:
    """The answer without what is wrapped around it: blanks, dollar signs, a box, a final full stop."""
    previous = None
    while text != previous:
        previous = text
        text = _trimmed(text)
        match = _WRAPPED.fullmatch(text)
        inner = next((part for part in match.groups() if part is not None), text) if match else text
        text = inner if _closed(inner) else text
    return text


def tidy(answer: str) -> str:
    """The answer as LaTeX that math-verify reads as it was meant; units and prose around it are gone."""
    text = _from_unicode(unwrap(answer))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    if "cases" in text and "&" not in text:  # a system of equations, not a piecewise function
        text = re.sub(r"\\(?:begin|end)\{cases\}", " ", text)
    if "matrix" not in text and "cases" not in text:  # the rows of an aligned block
        text = re.sub(r"\\\\ ?(?=&? ?=)", " ", text)  # a row that goes on with "=" is of the same chain
        text = text.replace("\\\\", ", ").replace("&", "")
    text = _without_words(_TEXT_UNIT.sub("", text.strip()) or text)
    text = _REPEATING.sub(_repeating, text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _without_units(text)
    if not re.search(r"[(\[{]\s*\d", text):  # within brackets a comma separates
        text = _GROUPS.sub(lambda match: match[0].replace(",", ""), text)
    return unwrap(re.sub(r"\s+", " ", text))


def canonical(answer: str) -> str:
    """A string without blanks; of an integer only the digits: no separators, leading zeros or trailing .0."""
    text = re.sub(r"(?<=\d) (?=\d{3}(?!\d))", "", tidy(answer))
    text = re.sub(r"(\\[a-zA-Z]+) (?=[a-zA-Z])|(\d) (?=\d)", r"\1\2\0", text).replace(" ", "")
    text = re.sub(r"([\^_])\{(\w)\}", r"\1\2", text.replace("\0", " "))
    match = _INTEGER.fullmatch(text)
    if match is None:
        return text
    number = int(match[2].replace(",", ""))
    return str(-number if match[1] == "-" else number)


def _trimmed(text: str) -> str:
    """The text without blanks around it and without a full stop, comma or LaTeX space at its end."""
    previous = None
    while text != previous:
        previous = text
        text = text.strip().rstrip(".,;~")
        for space in ("\\!", "\\:", "\\>", "\\"):  # what stripping leaves of "\ " and "\," is a backslash
            text = text.removesuffix(space)
    return text


def _closed(text: str) -> bool:
    """Whether no bracket of the text closes one that was opened before it."""
    depth = 0
    for brace in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


def _from_unicode(text: str) -> str:
    """Symbols, fractions and exponents that are characters, as LaTeX."""
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", text)
    for symbol, latex in _SYMBOLS.items():
        text = text.replace(symbol, latex)
    text = re.sub(r"√\s*(\d+|\([^()]*\))", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)  # a mixed number
    return _FRACTION_SLASH.sub(r"\\frac{\1}{\2}", unicodedata.normalize("NFKC", text))


def _without_words(text: str) -> str:
    """Prose before the answer goes, and a label; words between answers and units stay."""
    label = LABEL.match(TEXT.sub(r"\1", text).lstrip())
    if label and TEXT.match(text):  # \text{(D) }21
        text = TEXT.sub(r"\1", text, count=1).lstrip()[label.end() :] or label[0].strip("().:")
    text = re.sub(r"^\s*\\(?:approx|therefore|implies|Rightarrow|to)(?![a-zA-Z])", "", text)
    if NO_SOLUTION.fullmatch(TEXT.sub(r"\1", text).strip(" .")):
        return r"\emptyset "
    text = TEXT.sub(r" \1 ", text) if re.search(r"[A-Za-z]{2}", text) else TEXT.sub(r"\1", text)
    text = text.strip()
    lead_in = _LEAD_IN.match(text)
    return (text[lead_in.end() :] if lead_in else "") or text


def _without_units(text: str) -> str:
    """The text without degrees and a unit at its end; a unit alone stays."""
    if not TRIGONOMETRY.search(text):
        text = re.sub(r"(?<=\d)\s*\^\{\\circ\}\s*[CF]?$", "", text.strip())
    for ending in (_ORDINAL, _UNIT, _COUNTED):
        text = ending.sub("", text).strip() or text
    return text


def _repeating(match: re.Match[str]) -> str:
    """``0.1\\overline{27}`` as a fraction: the digits less those that do not repeat, over 9s and 0s."""
    whole, fixed, period = match.groups()
    numerator = int(whole + fixed + period) - int((whole + fixed) or "0")
    return rf"\frac{{{numerator}}}{{{'9' * len(period)}{'0' * len(fixed)}}}"
