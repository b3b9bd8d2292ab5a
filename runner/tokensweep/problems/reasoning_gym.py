"""Problem families of the package reasoning-gym, as far as their rewards can be trusted.

Some of its families reward junk, raise on it, or have no reference answer. So a family is used only if it is
on the list of those that were looked through, and its rewards are probed again before every plan. The package
is optional and takes seconds to import, so it is imported when a source is first read.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

from tokensweep.problems.procedural import Split, first_of_split, unread
from tokensweep.problems.protocol import Answered, Grade, Outcome, Problem, grade_each
from tokensweep.registry import component
from tokensweep.verifier import after_thinking, extract

VERSION = "0.1.25"  # another release may ask other questions for the same seed and grade otherwise

# Single-line answers, at most 1 ms to generate, at most one item in five right for the best constant answer,
# scorers that were read and neither evaluate the text nor allow for wrong numbers; probed with 24 items.
ALLOWED = (
    *("ab", "aiw", "arc_1d", "base_conversion", "basic_arithmetic", "binary_alternation"),
    *("caesar_cipher", "calendar_arithmetic", "chain_sum", "color_cube_rotation", "count_bits"),
    *("count_primes", "cryptarithm", "decimal_chain_sum", "dice", "family_relationships", "knights_knaves"),
    *("lcm", "leg_counting", "number_filtering", "palindrome_generation", "path_star", "products"),
    *("simple_equations", "simple_geometry", "spell_backward", "word_sequence_reversal"),
)
_KNOWN_FAULTS = {
    "coin_flip": "0 is right for nearly every problem",
    "complex_arithmetic": "nan is right for every problem",
    "fraction_simplification": "what stands behind the right fraction is overlooked",
    "game_of_life_halting": "any text that is not empty is right",
    "graph_color": "it has no reference answer",
    "letter_jumble": "words behind the right ones are overlooked",
    "number_sequence": "generating its default complexity can hang",
    "number_sorting": "numbers that are off by one are right",
    "prime_factorization": "its grader raises on most texts",
    "propositional_logic": "it has no reference answer",
    "puzzle24": "an expression with other numbers than the given ones is right",
    "rubiks_cube": "it has no reference answer",
    "rush_hour": "it has no reference answer",
    "word_sorting": "words behind the right ones are overlooked",
}
_SLOT = "{problem}"
_SEED = 0
_STREAM = 2**31 - 1  # length of the stream that problems are taken from
_PROBED = 12  # items of a family that the probe looks at
_JUNK = (
    *("", " ", "banana", "!?#{[(", "None", "True", "x", "x = 3", "2 x 3", "1/0", "nan", "inf", "0", "-1"),
    *("[]", "{}", '{"a": [1]}', "[[1, 2], [3, 4]]", "A -> B", "9" * 5000, "lorem ipsum " * 100),
)


@component("data", "reasoning_gym")
@dataclass(frozen=True)
class ReasoningGym:
    """The problems of one ``family``; ``options`` are its own parameters, such as ``{min_terms: 2}``.

    A problem depends on family, options and its place in the stream alone; the hash of the question decides
    its split. A completion is right if the family's grader gives exactly 1.0 for the answer that
    :func:`read_answer` finds; partial credit counts as wrong. There are no demonstrations.
    """

    family: str
    options: Any = None  # a mapping; not typed as one, as Hydra would refuse keys that it does not know
    instruction: str = "{problem}\n\nReason step by step and write the final answer as \\boxed{...}."
    split: Split = Split.train
    size: int = 4096  # distinct problems
    skip: int = 0  # problems of the split that come before them and are left to others
    max_tokens: int = 512

    def __post_init__(self) -> None:
        if self.family not in ALLOWED:
            why = _KNOWN_FAULTS.get(self.family, "it is not among those that were looked through")
            raise ValueError(
                f"data.family={self.family} is refused: {why}. Families to choose from: {', '.join(ALLOWED)}"
            )
        if not isinstance(self.options, Mapping | None):
            raise ValueError(f"data.options must be a mapping like {{min_terms: 2}}, got {self.options!r}")
        if self.size < 1 or self.max_tokens < 1:
            raise ValueError(f"size and max_tokens must be >= 1, got {self.size} and {self.max_tokens}")
        if self.skip < 0:
            raise ValueError(f"skip must be at least 0, got {self.skip}")
        if self.instruction.count(_SLOT) != 1:
            raise ValueError(f"instruction must contain {_SLOT} exactly once, got {self.instruction!r}")

    @property
    def name(self) -> str:
        """The family."""
        return self.family

    @property
    def grader(self) -> str:
        """The package's grader of this version, behind our reading of the answer and our cut at 1.0."""
        return f"reasoning-gym-{VERSION}/1"

    @property
    def answer_space(self) -> None:
        """Unknown."""
        return

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> Problem:
        return _problem(self.family, self._stream()[self.skip :][index])

    def check(self) -> None:
        """Raise ValueError if package, options, rewards or number of distinct problems are not as needed."""
        faults = probe(_dataset(self.family, self._options()))
        if faults:
            raise ValueError(
                f"{self.family} with options {self._options()} is refused, as its rewards are wrong: "
                f"{faults[0]} ({len(faults)} such cases): choose other data.options or another data.family"
            )
        self._stream()

    def content_hash(self) -> str:
        """SHA-256 over version, instruction and problems; length limit and grader are no content."""
        rows = [[p.id, p.prompt, p.answer] for p in (self[index] for index in range(self.size))]
        whole: list[Any] = [VERSION, self.family, self._options(), self.instruction, rows]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()

    def prompt_text(self, problem: Problem) -> str:
        """The instruction with the question in its place."""
        return self.instruction.replace(_SLOT, problem.prompt)

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        """Grade with the family's own grader; where that raises the grade is ``error``."""
        answer, rule = read_answer(text, finished=finish_reason != "length")
        if answer is None:
            return unread(finish_reason)
        dataset = _dataset(self.family, self._options())
        entry = dataset[int(problem.id.rpartition("-")[2])]
        try:
            right = dataset.score_answer(answer, entry) == 1.0
        except Exception as error:  # noqa: BLE001  foreign code on whatever a model writes
            reason = f"crashed: {type(error).__name__}"
            return Grade(outcome=Outcome.error, extracted=answer, rule=rule, reason=reason)
        return Grade(outcome=Outcome.correct if right else Outcome.wrong, extracted=answer, rule=rule)

    def grade_many(self, answers: Sequence[Answered], /) -> list[Grade]:
        """One grade after the other: these graders compare text."""
        return grade_each(self, answers)

    def _options(self) -> str:
        return json.dumps(dict(self.options or {}), sort_keys=True)

    def _stream(self) -> Sequence[tuple[int, Mapping[str, Any]]]:
        return _stream(self.family, self._options(), self.split, self.skip + self.size)


def read_answer(text: str, *, finished: bool) -> tuple[str | None, str]:
    """The answer in a completion with the rule that found it; (None, "none") where there is none.

    It is read as for all other problems (:func:`tokensweep.verifier.extract`), whose ``<answer>`` is also the
    package's own convention; but these answers may be words: without box and tag it is the last line of a
    text that ended by itself.
    """
    answer, rule = extract(text, finished=finished)
    if rule in ("boxed", "answer_tag"):
        return answer, rule
    visible = after_thinking(text)
    lines = [line.strip() for line in visible.splitlines() if line.strip()] if finished else []
    return (lines[-1], "last_line") if lines else (None, "none")


def probe(dataset: Any) -> list[str]:
    """What is wrong with the rewards of a dataset of the package, a line per case; empty if nothing is found.

    The reference answer must score 1.0; the answers of other items, the reference answer with another one
    behind it, the empty text, junk and values of other types must not, and nothing may raise.
    """
    entries = [dataset[index] for index in range(_PROBED)]
    return [fault for entry in entries for fault in _faults(dataset, entry, entries)]


def _faults(dataset: Any, entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    gold = entry["answer"]
    if not isinstance(gold, str) or not gold:
        yield f"an item has no reference answer but {gold!r}"
        return
    others = [each["answer"] for each in entries if each["answer"] != gold]
    hedged = [f"{gold}{between}{others[0]}" for between in (" ", ", ", "\n")] if others else []
    yield from _misjudged(dataset, entry, gold, right=True)
    for text in (*others, *hedged, *_JUNK, None):
        if not _same(text, gold):
            yield from _misjudged(dataset, entry, text, right=False)


def _misjudged(dataset: Any, entry: Mapping[str, Any], answer: Any, *, right: bool) -> Iterator[str]:
    """One line if the answer is not judged as it should be."""
    shown = repr(answer if answer is None else answer[:40])
    try:
        score = dataset.score_answer(answer, entry)
    except Exception as error:  # noqa: BLE001  whatever it raises is the finding
        yield f"the answer {shown} raises {type(error).__name__}"
        return
    if not isinstance(score, int | float) or (score == 1.0) is not right:
        yield f"the answer {shown} to a problem whose answer is {entry['answer'][:40]!r} scores {score!r}"


def _same(text: str | None, gold: str) -> bool:
    """Whether a text happens to be the answer."""
    if text is None:
        return False
    try:
        return float(text) == float(gold)
    except ValueError:
        return text.strip().lower() == gold.strip().lower()


def _problem(family: str, item: tuple[int, Mapping[str, Any]]) -> Problem:
    place, entry = item
    return Problem(id=f"{family}-{place}", prompt=entry["question"], answer=entry["answer"])


@lru_cache(maxsize=16)
def _stream(family: str, options: str, split: Split, size: int) -> tuple[tuple[int, Mapping[str, Any]], ...]:
    """The first ``size`` items of the split with distinct questions, each with its place in the stream."""
    dataset = _dataset(family, options)
    drawn = ((entry["question"], (place, entry)) for place in count() for entry in [dataset[place]])
    return tuple(first_of_split(drawn, split=split, size=size, name=family).values())


@lru_cache(maxsize=16)
def _dataset(family: str, options: str) -> Any:
    """The package's dataset. Raises ValueError without the package or for options that it does not take."""
    _check_version()
    import reasoning_gym

    try:
        return reasoning_gym.create_dataset(family, seed=_SEED, size=_STREAM, **json.loads(options))
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"{family} does not take data.options={options}: {error}") from error


def _check_version() -> None:
    try:
        got = importlib.metadata.version("reasoning-gym")
    except importlib.metadata.PackageNotFoundError:
        got = "none"
    if got != VERSION:
        raise ValueError(
            f"data=reasoning_gym must have reasoning-gym {VERSION}, got {got}: "
            "pip install 'tokensweep[reasoning-gym]'"
        )
