"""What is refused or remarked before a run starts: problems both trained and tested on, and long prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tokensweep.compose import Frozen
from tokensweep.data.catalogue import default_file
from tokensweep.models.prompts import ModelPrompt, fitting, prompt_of
from tokensweep.problems.jsonl import JsonlProblems
from tokensweep.problems.mixture import parts_of
from tokensweep.problems.overlap import COMPARED, shared
from tokensweep.problems.protocol import Problem, ProblemSource
from tokensweep.registry import build
from tokensweep.store import make_store

_SHOWN = 3  # ids in a message


def refuse_overlap(training: ProblemSource, suites: Mapping[str, ProblemSource], *, store: Path) -> None:
    """Raise ValueError when a training file holds problems of an evaluation file, see problems.overlap.

    Procedural tasks are not compared: the hash of a prompt keeps their splits apart.
    """
    files = {key: part for key, part in parts_of(training).items() if isinstance(part, JsonlProblems)}
    for (key, part), (name, suite) in product(files.items(), suites.items()):
        if not isinstance(suite, JsonlProblems):
            continue
        both = shared(_problems(part), _problems(suite))
        if both:
            exclude = ",".join(_typed(path, store) for path in (*part.exclude, suite.path))
            raise ValueError(
                f"{part.name} would train on {len(both)} problems of the suite {name}: "
                f"{', '.join(problem.id for problem in both[:_SHOWN])}. Drop them with "
                f"'{key}.exclude=[{exclude}]', which makes it a run of its own, or choose another suite "
                f"(compared: {COMPARED})"
            )


def check_engine(config: Mapping[str, Any]) -> None:
    """Raise ValueError when the rollout engine of a frozen config can not run on this machine."""
    from tokensweep.rollout.protocol import Demanding

    engine = build(config["rollout"])
    if isinstance(engine, Demanding):
        engine.check_machine(device=config["compute"]["device"])


def bring_model(config: Mapping[str, Any], store: Path) -> None:
    """Have a hub model of a frozen config in the store; raises ValueError where it is out of reach."""
    from tokensweep.models.hf import HfModel

    model = build(config["model"])
    if isinstance(model, HfModel):
        make_store(store)
        model.materialise(data=None, cache=store / "models")


def _typed(path: str, store: Path) -> str:
    """A file as ``data.exclude`` takes it: by the set's name where the set is looked for by name."""
    file = Path(path)
    return file.stem if file == default_file(store, file.stem) else path


def overlap_remark(training: Mapping[str, Any], name: str, suite: ProblemSource) -> str:
    """A sentence where a trained run has seen problems of a suite, or where that is unknown; else empty.

    ``training`` is the config node of the run's data, whose file may be gone.
    """
    files = [part for part in parts_of(build(training)).values() if isinstance(part, JsonlProblems)]
    if not files or not isinstance(suite, JsonlProblems):
        return ""
    seen: set[str] = set()
    for source in files:
        try:
            seen.update(problem.id for problem in shared(_problems(suite), _problems(source)))
        except (ValueError, OSError):
            return (
                f"{name}: unknown whether the run trained on its problems, as {source.path} is not there any "
                "more"
            )
    return f"{name}: the run trained on {len(seen)} of its {len(suite)} problems" if seen else ""


def _problems(source: ProblemSource) -> Iterator[Problem]:
    return (source[index] for index in range(len(source)))


def remarks_on(config: Frozen, source: ProblemSource, suites: Mapping[str, ProblemSource]) -> tuple[str, ...]:
    """Problems left out, a sentence each.

    Raises ValueError for a prompt above the limit that is refused, and for a template that the tokenizer
    cannot put into tokens. Prompts are tried and counted where the model's tokenizer is at hand; elsewhere
    by the run before its first step.
    """
    found = []
    for key, part in parts_of(source).items():
        if isinstance(part, JsonlProblems) and part.num_excluded:
            total = len(part.whole_file())
            found.append(f"{part.name}: {part.num_excluded} of {total} problems dropped by {key}.exclude")
        if isinstance(part, JsonlProblems) and (repeats := part.num_like_held_out):
            found.append(f"{part.name}: {repeats} problems dropped, as they repeat held-out ones")
    prompt, model = prompt_of(config), build(config["model"])
    tokenizer = None
    if prompt != ModelPrompt():  # the default is what the model was made for, and a plan is quicker without
        tokenizer = model.tokenizer(data=source, cache=Path(config["store"]) / "models")
    if tokenizer is None:
        return tuple(found)
    encode = partial(prompt.encode, tokenizer, chat=model.chat)
    for each in (source, *suites.values()):
        encode(each.prompt_text(each[0]))
        kept = len(fitting(prompt, each, encode))
        if kept < len(each):
            found.append(
                f"{each.name}: {len(each) - kept} of {len(each)} problems dropped, "
                f"longer than prompt.max_tokens={prompt.max_tokens}"
            )
    return tuple(dict.fromkeys(found))
