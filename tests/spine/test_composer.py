"""Runs that differ in values are composed once, and come out as Hydra would have composed each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from tokensweep.compose import Parts, freeze_run, register_components
from tokensweep.composer import Composer, compose_config, parse
from tokensweep.identity import verify
from tokensweep.paths import sweep_dirs
from tokensweep.plan import make_plan, write_plan
from tokensweep.sweepfile import adhoc_sweep, load_sweep
from tokensweep.sweepshape import read_sweep_file

register_components()

METHOD = "method=forking_tokens"
FRACTION = "method.token_weights.entropy.fraction"


def shown(config: DictConfig) -> str:
    """Every value with its Python type, in the order of the keys, interpolations as they are."""
    return repr(OmegaConf.to_container(config, resolve=False))


def compositions(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The overrides of each composition by Hydra, from now on."""
    made: list[list[str]] = []

    def counted(name: str, overrides: list[str]) -> DictConfig:
        made.append(overrides)
        return compose(name, overrides)

    monkeypatch.setattr("tokensweep.composer.compose", counted)
    return made


@pytest.fixture(scope="module")
def warm() -> Composer:
    """A composer that has seen forking tokens and HolderPO with its schedule."""
    composer = Composer()
    composer.compose(parse([METHOD]))
    composer.compose(parse(["method=holderpo_annealed"]))
    return composer


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted(sweep_dirs()[-1].glob("*.yaml"))
        if "search" not in yaml.safe_load(path.read_text())
    ],
    ids=lambda path: path.stem,
)
def test_arms_of_a_shipped_sweep_are_composed_as_hydra_does(path: Path) -> None:
    arms = list(read_sweep_file(path)["arms"])
    composer = Composer()
    for seed in (0, 1):  # the second time from what is kept
        sweep = load_sweep(str(path), scale="tiny", seeds=[seed], arms=arms, overrides=["store=here"])
        for job in sweep.jobs[:: max(1, len(sweep.jobs) // 4)]:  # Hydra takes a third of a second for each
            ours = composer.compose(parse(job.overrides))
            if seed:
                assert shown(ours) == shown(compose_config(job.overrides))


@pytest.mark.parametrize(
    "values",
    [
        ["seed=7"],
        ["seed=-1"],
        ["seed='7'"],  # a string for an integer
        ["seed=1", "seed=2"],
        ["store=runs/here"],
        ["store='it is \\'quoted\\', and spaced'"],
        ['sweep="a \\"b\\" c"'],
        ["sweep=null"],
        ["sweep=true"],
        ["store="],
        [f"{FRACTION}=0.25"],
        [f"{FRACTION}=1"],  # an integer for a float
        ["method.token_weights.entropy.threshold=0.7", "method.token_weights.entropy.side=low"],
        ["optim.lr=1e-6"],
        ["optim.lr=2.5E-7", "optim.weight_decay=0"],
        ["optim.eps=inf"],
        ["code=any"],
        ["eval.k=[1,2,4]", "eval.tau=[]"],
        ["sampling.stop=['a,b',null_,'3']"],
        ["sampling.stop=[]", "sampling.stop=[x]"],
        ["sampling={temperature:0.5,top_p:0.9}"],
        ["eval.suites={}"],
        ["sampling.max_tokens='${steps}'"],
        ["sampling.max_tokens=${data.max_tokens}"],
        ["sampling.max_tokens=???"],
        ["eval.max_tokens=null"],
        ["method.name=3"],
        ["data.max_tokens=9", "model.hidden=32"],
    ],
    ids="  ".join,
)
def test_a_value_is_assigned_to_a_copy_as_hydra_assigns_it(
    values: list[str], warm: Composer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = shown(compose_config([METHOD, *values]))
    made = compositions(monkeypatch)
    assert shown(warm.compose(parse([METHOD, *values]))) == expected
    assert made == []


def test_the_keys_of_a_schedule_are_values(warm: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ["steps='${steps}'", "shape=power", "start=-2", "end=1e-1", "path=ratio.p"]
    overrides = ["method=holderpo_annealed", *(f"method.schedules.holder_p.{key}" for key in keys)]
    expected = shown(compose_config(overrides))
    made = compositions(monkeypatch)
    assert shown(warm.compose(parse(overrides))) == expected
    assert made == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["nonsense=1"],
        ["method.ratio.q=1"],
        ["method.token_weights.entropy.side=up"],
        ["method.token_weights.nobody.fraction=0.5"],
        ["seed=x"],
        ["seed=1.5"],
        ["seed=null"],
        ["seed=[1,2]"],
        ["seed={a:1}"],
        ["seed.deeper=1"],
        ["eval.k=3"],
        ["eval.k.0=x"],
        ["sampling=3"],
        ["sampling={nobody:1}"],
        ["code=other"],
        ["seed=1,2"],
        ["seed=range(3)"],
        ["method=holderpo_annealed", "method.schedules.holder_p.end=glob(*)"],
        ["seed=3", "+seed=4"],
        ["~nobody"],
        ["data=nobody"],
        ["data@nowhere=ops"],
        ["seed@nowhere=1"],
        ["data=3"],
    ],
    ids="  ".join,
)
def test_an_error_is_the_one_that_hydra_raises(overrides: list[str], warm: Composer) -> None:
    def error_of(composing: Any, given: Any) -> tuple[type[BaseException], str, str]:
        with pytest.raises((HydraException, ValueError)) as caught:
            composing(given)
        return caught.type, str(caught.value), str(caught.value.__cause__)

    given = [METHOD, *overrides]
    assert error_of(warm.compose, parse(given)) == error_of(compose_config, given)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method.schedules.holder_p.end=1", "~method.schedules.holder_p", "steps=3"],
        ["steps=3", "+method.schedules.holder_p.power=2", "method.schedules.holder_p.power=3"],
        ["++steps=4", "steps=3"],
        ["steps=3", "++steps=4"],
        ["sampling.top_k=5", "method/surrogate=gspo_clip", "steps=2"],
        ["steps=2", "+method/token_weights@method.token_weights.low=entropy", "steps=3"],
        ["method.token_weights.low.side=low", "+method/token_weights@method.token_weights.low=entropy"],
        ["steps=3", "~scale", "seed=4"],
        ["method.updates_per_batch=3", "method={updates_per_batch:2}", "seed=4"],
        ["method={updates_per_batch:2}", "method.updates_per_batch=3"],
        ["data=countdown", "data.max_tokens=20", "scale=smoke"],
        ["hydra.job.name=x", "seed=4"],
    ],
    ids="  ".join,
)
def test_what_changes_the_structure_keeps_its_place_among_the_values(overrides: list[str]) -> None:
    given = ["method=holderpo_annealed", *overrides]
    assert shown(Composer().compose(parse(given))) == shown(compose_config(given))


def test_runs_are_composed_once_for_each_selection_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    made = compositions(monkeypatch)
    composer = Composer()
    for method in ("dapo", "grpo"):
        for seed in range(5):
            composer.compose(parse([f"seed={seed}", f"method={method}", f"optim.lr={seed}e-6"]))
    assert made == [["method=dapo"], ["method=grpo"]]


def test_a_composed_config_is_the_callers_own(warm: Composer) -> None:
    before = shown(warm.compose(parse([METHOD])))
    warm.compose(parse([METHOD])).method.token_weights.entropy.fraction = 0.9
    assert shown(warm.compose(parse([METHOD]))) == before


def test_a_copy_takes_no_new_key_either(warm: Composer) -> None:
    with pytest.raises(AttributeError, match="nobody"):
        warm.compose(parse([METHOD, "seed=4"])).optim.nobody = 1


def test_a_search_path_of_the_command_line_holds_for_its_run_only(tmp_path: Path) -> None:
    (tmp_path / "scale").mkdir()
    (tmp_path / "scale" / "mine.yaml").write_text("# @package _global_\nsteps: 3\n")
    composer = Composer()
    assert (
        composer.compose(parse(["scale=mine", "seed=1", f"hydra.searchpath=[file://{tmp_path}]"])).steps == 3
    )
    with pytest.raises(HydraException, match="Could not find 'scale/mine'"):
        composer.compose(parse(["scale=mine", "seed=2"]))


def test_a_composer_sees_the_groups_of_the_application_that_runs(tmp_path: Path) -> None:
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "fast.yaml").write_text("lr: 0.5\n")
    (tmp_path / "optim" / "slow.yaml").write_text("lr: 0.1\n")
    (tmp_path / "train.yaml").write_text("defaults: [optim: fast, _self_]\nseed: 0\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        composer = Composer()
        for option, rate in (("fast", 0.5), ("slow", 0.1)):
            composed = composer.compose(parse([f"optim={option}", "seed=2"]))
            assert composed == {"optim": {"lr": rate}, "seed": 2}


def jobs(folder: Path, *, runs: int) -> Iterator[Sequence[str]]:
    for number in range(runs):
        yield [METHOD, f"{FRACTION}={number % 2 / 4 + 0.25}", f"seed={number}", f"store={folder}"]


def test_a_planned_run_has_the_config_that_it_has_alone(tmp_path: Path) -> None:
    given = [list(job) for job in jobs(tmp_path, runs=4)]
    for job, names in zip(given, (["a", "b"], ["a", "b"], ["b", "a"], []), strict=True):
        job += [f"+method/token_weights@method.token_weights.{name}=entropy" for name in names]
    plan = make_plan(adhoc_sweep(given, name="x", scale="tiny"))
    assert [repr(run.config) for run in plan.runs] == [repr(freeze_run(job)) for job in given]


def test_runs_of_a_plan_hold_what_is_equal_once(tmp_path: Path) -> None:
    first, second, third = make_plan(adhoc_sweep(list(jobs(tmp_path, runs=3)), name="x", scale="tiny")).runs
    assert first.config["eval"] is second.config["eval"]
    assert first.config["method"]["surrogate"] is second.config["method"]["surrogate"]
    assert first.config["method"] is third.config["method"]
    assert first.config["method"] != second.config["method"]


def test_methods_whose_pieces_act_in_another_order_are_two() -> None:
    node = freeze_run(["method=rloo"])["method"]
    pieces = {"one": node["reward_terms"]["verifier"], "two": node["reward_terms"]["verifier"]}
    parts = Parts()
    forth = parts.method({**node, "reward_terms": pieces})
    back = parts.method({**node, "reward_terms": dict(reversed(pieces.items()))})
    assert list(forth.reward_terms) == ["one", "two"]
    assert list(back.reward_terms) == ["two", "one"]


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    plan = make_plan(adhoc_sweep(list(jobs(tmp_path, runs=3)), name="x", scale="tiny"))
    blocked = plan.runs[1].dir(plan.store)
    blocked.parent.mkdir()
    blocked.touch()
    with pytest.raises(OSError, match=f"{blocked.name}/config.json could not be written"):
        write_plan(plan)
    assert not (plan.sweep_dir / "sweep.json").exists()


def test_a_damaged_run_folder_is_mended_as_its_error_says(tmp_path: Path) -> None:
    plan = make_plan(adhoc_sweep(list(jobs(tmp_path, runs=1)), name="x", scale="tiny"))
    write_plan(plan)
    folder = plan.runs[0].dir(plan.store)
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"restore it, or delete plan\.json in its folder and give the command"
    ):
        verify(folder)
    (folder / "plan.json").unlink()
    write_plan(plan)
    assert verify(folder)["seed"] == 0
