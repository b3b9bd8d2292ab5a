"""Options that several subcommands share: which store, which MLflow, which sweep or run."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokensweep.paths import default_store

if TYPE_CHECKING:
    from tokensweep.sweepfile import Sweep


def with_store(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, Path, str]:
    """Parsed options, the store and the tracking URI; ``store=`` and ``tracking.uri=`` may stand anywhere."""
    parser.epilog = "store=FOLDER and tracking.uri=URI may be given as well."
    own = ("store=", "tracking.uri=")
    given = dict(text.split("=", 1) for text in arguments if text.startswith(own))
    options = parser.parse_args([text for text in arguments if not text.startswith(own)])
    store = Path(given["store"]).expanduser().resolve() if given.get("store") else default_store()
    return options, store, given.get("tracking.uri") or default_tracking_uri(store)


def default_tracking_uri(store: Path) -> str:
    """MLflow's database when ``tracking.uri`` is empty."""
    return f"sqlite:///{store / 'mlflow.db'}"


def known_sweeps(store: Path) -> list[str]:
    """The sweeps of a store, the one that was changed last at the end."""
    files = sorted((store / "sweeps").glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
    return [path.parent.name for path in files]


def known_sweep(store: Path, name: str) -> str:
    """The sweep called ``name``, or the only one whose name starts with ``name-``. Raises ValueError."""
    known = sorted(known_sweeps(store))
    if name in known:
        return name
    longer = [other for other in known if other.startswith(f"{name}-")]
    if len(longer) == 1:
        return longer[0]
    raise ValueError(f"no sweep {name!r} in {store}: known are {', '.join(known) or 'none'}")


def known_run(store: Path, name: str) -> Path:
    """The folder of the only run whose id starts with ``name``. Raises ValueError."""
    folders = sorted(path.parent for path in (store / "runs").glob("*/plan.json"))
    found = [folder for folder in folders if name and folder.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    ids = ", ".join(folder.name for folder in found)
    which = f"several runs start with {name!r} ({ids})" if found else f"no run {name!r}"
    raise ValueError(f"{which} in {store}: tokensweep status SWEEP --runs lists ids")


_PLAN_TRAIN = (
    " 'plan train KEY=VALUE ...' takes the keys of 'tokensweep train' and says what the run would take of a "
    "GPU, from the model's shape alone: with site=NAME, or with gpu_mem_gb=80 gpus=8 gpu_tflops=312 "
    "gpu_bandwidth_gb_s=2039; mean_tokens=5000 is the length of completions to expect. Exit code 1 when it "
    "does not fit."
)


def sweep_parser(name: str) -> argparse.ArgumentParser:
    """The parser of ``sweep`` or ``plan``."""
    parser = argparse.ArgumentParser(
        prog=f"tokensweep {name}",
        description="Run every arm of a sweep file for every seed, skip what is finished, print the table."
        if name == "sweep"
        else "Compose and check everything, run nothing; for a cluster, write the batch files.",
        epilog="scale=NAME picks a scale of the file (default tiny), seeds=0,1 and arms=a,b replace its own; "
        "trials=N those of a search; any other KEY=VALUE is a Hydra override for every run, for example "
        "steps=20, store=FOLDER, jobs=2. "
        "hydra/launcher=slurm site=NAME submits to a cluster and returns; wait=true stays until all is done."
        + (_PLAN_TRAIN if name == "plan" else ""),
    )
    parser.add_argument(
        "name", help="name of a sweep, or the path of a YAML file" + (", or train" if name == "plan" else "")
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    return parser


_OF_A_FILE = {"scale": "tiny", "seeds": "", "arms": "", "sweep": ""}  # what picks something of a sweep file


def own_words(
    overrides: Iterable[str], defaults: Mapping[str, str] = _OF_A_FILE
) -> tuple[dict[str, str], list[str]]:
    """The words of a command, which has these with ``defaults``, and the overrides for every run."""
    own, rest = dict(defaults), []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals and not override.startswith("~"):
            raise ValueError(f"expected KEY=VALUE, got {override!r}")
        if key in own:
            own[key] = value
        else:
            rest.append(override)
    return own, rest


def load_chosen(name: str, overrides: Sequence[str]) -> Sweep:
    """A sweep file with the scale, seeds and arms that a command line picks; ``sweep=`` names it anew."""
    from dataclasses import replace

    from tokensweep.sweepfile import load_sweep

    own, rest = own_words(overrides)
    sweep = load_sweep(
        name,
        scale=own["scale"],
        seeds=seeds_of(own["seeds"]) or None,
        arms=words_of(own["arms"]) or None,
        overrides=rest,
    )
    return replace(sweep, name=own["sweep"]) if own["sweep"] else sweep


def split_launcher(overrides: Sequence[str]) -> tuple[str, list[str]]:
    """What ``hydra/launcher=`` says, and the other overrides: it is of the command and not of a run."""
    key = "hydra/launcher="
    given = [text.removeprefix(key) for text in overrides if text.startswith(key)]
    return (given or ["local"])[-1], [text for text in overrides if not text.startswith(key)]


def seeds_of(text: str) -> list[int]:
    """The seeds that ``seeds=`` lists. Raises ValueError for anything but whole numbers."""
    try:
        return [int(seed) for seed in words_of(text)]
    except ValueError:
        raise ValueError(f"seeds= must be whole numbers, as in seeds=0,1,2, got {text!r}") from None


def words_of(text: str) -> list[str]:
    """The words of a list with commas, in brackets or not."""
    return [word.strip() for word in text.strip("[]").split(",") if word.strip()]
