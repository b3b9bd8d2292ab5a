"""Time and accuracy of the verifier.

    python benchmarks/verifier.py [--pairs FILE]

Grades 1,500 answers, 17 of them bombs that would compute for ever, then the hard pairs of the tests and those
of FILE, a JSONL file with gold, answer and equal on every line. Wrong verdicts are listed. Undecided are
bombs, refused by their text, and what ran into the limits of time or memory: neither equal nor different.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections.abc import Sequence
from pathlib import Path

from tokensweep.verifier import NAME, Verdict, Verifier

_PAIRS = Path(__file__).resolve().parent.parent / "tests" / "verifier" / "pairs.jsonl"
_COLUMNS = ("gold", "answer", "equal")
NUM_ANSWERS = 1500
# The first ten are refused by their text, the others run into the limits of the workers.
BOMBS = (
    r"9^{9^{9^9}}",
    r"(10^{9})!",
    r"((50!)!)!",
    r"2^{10^{12}}",
    r"7^{123456789}",
    r"\binom{90000000}{45000000}",
    r"\sum_{k=1}^{10^{9}} \frac{1}{k}",
    r"\int_0^1 x^{x^{x^x}} dx",
    r"\prod_{n=1}^{100000} n^n",
    "(" * 500 + "1" + ")" * 500,
    r"(x+y+z+1)^{900} - (x+y+z)^{900}",
    r"((9^{9999})^{9999})^{99}",
    r"\left((((3^{999})^{999})^{999})^{999}\right)^{999}",
    r"9999! \cdot 9998! \cdot (9997!)^{999}",
    r"(((((x+1)^{99}+1)^{99}+1)^{99}+1)^{99}+1)^{99}",
    r"\sqrt{" * 35 + "x+2" + "}" * 35 + r"+ (a+b+c+d)^{700}",
    r"((1+\sqrt{2})^{999})^{999} + ((1+\sqrt{3})^{999})^{999}",
)

Pair = tuple[str, str, bool | None]  # reference, answer, whether they are equal; None for a bomb


def workload(seed: int = 0) -> list[Pair]:
    """1,500 answers as a training step meets them: mostly integers, some radicals, 17 bombs."""
    rng = random.Random(seed)
    pairs: list[Pair] = [("5", bomb, None) for bomb in BOMBS]
    while len(pairs) < NUM_ANSWERS:
        equal = rng.random() < 0.5
        a, b, c = rng.randint(1, 40), rng.randint(2, 30), rng.choice((2, 3, 5, 7, 11))
        wrong = 0 if equal else rng.randint(1, 9)
        if rng.random() < 0.7:
            pairs.append((str(a * b), str(a * b + wrong), equal))
        else:
            gold = rf"\frac{{{a}+\sqrt{{{c}}}}}{{{b}}}"
            pairs.append((gold, rf"\frac{{\sqrt{{{c}}}}}{{{b}}}+\frac{{{a + wrong}}}{{{b}}}", equal))
    rng.shuffle(pairs)
    return pairs


def read_pairs(file: Path) -> list[Pair]:
    """Pairs from a JSONL file with ``gold``, ``answer`` and ``equal``.

    Raises ValueError naming file and line for another content, OSError for a file that cannot be read.
    """
    lines = enumerate(file.read_text(encoding="utf-8").split("\n"), start=1)
    return [_pair(line, where=f"{file} line {number}") for number, line in lines if line.strip()]


def _pair(line: str, *, where: str) -> Pair:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} must be a JSON object, but is no valid JSON: {error.msg}") from None
    if not isinstance(row, dict) or not set(_COLUMNS) <= set(row):
        got = ", ".join(row) if isinstance(row, dict) else repr(row)
        raise ValueError(f"{where} must be an object with {', '.join(_COLUMNS)}, got {got}: rename its keys")
    gold, answer, equal = (row[name] for name in _COLUMNS)
    if not (isinstance(gold, str) and isinstance(answer, str) and isinstance(equal, bool)):
        raise ValueError(f"{where} must have texts as gold and answer and true or false as equal, got {line}")
    return gold, answer, equal


def is_right(expected: bool | None, verdict: Verdict) -> bool:
    """Whether a verdict is as expected. Of a bomb it may be "not equal" or undecided, never "equal"."""
    return verdict.equal is not True if expected is None else verdict.equal is expected


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description="Time and accuracy of the verifier.",
        epilog="Undecided are bombs, refused by their text, and what ran into the limits of time or memory: "
        "neither equal nor different.",
    )
    parser.add_argument("--pairs", type=Path, help="JSONL file with gold, answer and equal per line")
    options = parser.parse_args(arguments)
    files = [_PAIRS, options.pairs] if options.pairs else [_PAIRS]
    try:
        pairs = [read_pairs(file) for file in files]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    _report(f"{NUM_ANSWERS} answers, {len(BOMBS)} bombs", workload())
    for file, rows in zip(files, pairs, strict=True):
        _report(str(file), rows)


def _report(title: str, pairs: Sequence[Pair]) -> None:
    """Grade with a fresh verifier and print one line, then what was wrong."""
    start, used = time.perf_counter(), _cpu_s()
    with Verifier() as verifier:
        verdicts = verifier.compare([(gold, answer) for gold, answer, _ in pairs])
    wall_s, cpu_s = time.perf_counter() - start, _cpu_s() - used
    wrong = [(pair, v) for pair, v in zip(pairs, verdicts, strict=True) if not is_right(pair[2], v)]
    undecided = sum(verdict.equal is None for verdict in verdicts)
    print(
        f"{title}: {len(pairs) - len(wrong)} of {len(pairs)} right, {undecided} undecided (bombs, limits), "
        f"{wall_s:.1f} s with start-up, {cpu_s:.1f} CPU seconds  [{NAME}]"
    )
    for (gold, answer, expected), verdict in wrong:
        print(f"  {gold}  {answer}  equal: {expected}, got {verdict.equal} {verdict.reason}")


def _cpu_s() -> float:
    """Processor time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
