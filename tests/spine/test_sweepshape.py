"""A sweep file that cannot be understood is refused by file and key, before anything is composed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tokensweep.cli import main
from tokensweep.compose import register_components
from tokensweep.orchestrate import dry_run
from tokensweep.plan import make_plan
from tokensweep.sweepfile import Sweep, adhoc_sweep, load_sweep

_CLAIM = "{id: c, kind: superiority, contrast: a - b, metric: pooled/avg}"
_FILE = """
arms:
  a: {method: dapo}
  b: {method: forking_tokens}
seeds: [0, 1]
<top>
scales:
  tiny: {settings: {ops: {data: ops}}}
  small:
    base: {steps: 3}
    <scale>
"""


def _load(tmp_path: Path, *, top: str = "", scale: str = "", text: str = _FILE) -> Sweep:
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("<top>", top).replace("<scale>", scale))
    return load_sweep(str(path), scale="tiny")


@pytest.mark.parametrize(
    ("top", "message"),
    [
        (f"claims: {_CLAIM}", r"claims must be a list with a mapping per claim, got \{'id': 'c', .*: put - "),
        ("claims: none", "claims must be a list with a mapping per claim, got 'none'"),
        ("claims: [wins]", "every claim must be a mapping with an id, got 'wins'"),
        (f"about: Qwen\nclaims: [{_CLAIM}]", "about must be a mapping with some of data, model, got 'Qwen'"),
        ("about: [model]", r"about must be a mapping with some of data, model, got \['model'\]"),
        ("about: {modell: Qwen}", "about has unknown keys modell: known are data, model"),
        ("about: {model: [Qwen]}", r"about\.model must be text, got \['Qwen'\]: put it in quotes"),
        ("base: steps", "base must be a mapping with KEY: VALUE, got 'steps'"),
        ("settings: [ops]", r"settings must be a mapping with NAME: \{KEY: VALUE\}, got \['ops'\]"),
        ("settings: {ops: ops}", r"settings\.ops must be a mapping with KEY: VALUE, got 'ops'"),
        ("settings: {}", "settings must not be empty: add a name, or leave the key out"),
        ("settings: {no: {data: ops}}", "settings: a name must be text, got False: put it in quotes"),
        ("paper: [arXiv]", r"paper must be text, got \['arXiv'\]"),
        ("baseline: [a]", r"baseline must be text, got \['a'\]"),
        ("1: 2", "unknown keys 1: known are about, arms"),
        ("seeds: [2]", r"line 6: 'seeds' stands twice in one mapping, and only one of them would count"),
    ],
)
def test_the_key_is_named_with_what_it_holds(tmp_path: Path, top: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"mine\.yaml.* {message}"):
        _load(tmp_path, top=top)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (f"claims: {_CLAIM}", r"scales\.small\.claims must be a list with a mapping per claim"),
        ("claims: [wins]", "claims at scale small: every claim must be a mapping with an id, got 'wins'"),
        (
            f"claims: [{_CLAIM.replace('a - b', 'a - a')}]",
            "claims at scale small: c: contrast must be .* two different arms",
        ),
        ("about: {model: Qwen}", r"scales\.small has unknown keys about: known are arms, base"),
        ("arms: b", r"scales\.small\.arms must be a list of arms, got 'b': write \[A, B\]"),
        ("arms: [c]", r"scales\.small\.arms has no arm c: known are a, b"),
        ("arms: []", r"scales\.small\.arms must be a list of arms, got \[\]"),
        ("arms: [a, a]", r"scales\.small\.arms has a twice, which would count one run as two"),
        ("seeds: 3", r"scales\.small\.seeds must be a list of whole numbers, got 3"),
        ("seeds: [x]", r"scales\.small\.seeds must list whole numbers, got 'x'"),
        ("seeds: [true]", r"scales\.small\.seeds must list whole numbers, got True"),
        ("seeds: [1, 1]", r"scales\.small\.seeds has 1 twice, which would count one run as two"),
    ],
)
def test_a_scale_is_checked_though_another_one_is_asked_for(tmp_path: Path, scale: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"mine\.yaml: {message}"):
        _load(tmp_path, scale=scale)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            _FILE.replace("  a: {method: dapo}\n  b: {method: forking_tokens}", "  [a, b]"),
            "arms must be a map",
        ),
        (_FILE.replace("{settings: {ops: {data: ops}}}", "ops"), r"scales\.tiny must be a mapping with some"),
        ("arms: {a: {method: dapo}}\nseeds: 3\nscales: {tiny: {}}", "seeds must be a list of whole numbers"),
        ("arms: {a: {method: dapo}}\nseeds: [0]\nscales: [tiny]", r"scales must be a mapping with NAME"),
    ],
)
def test_the_parts_of_a_file_have_their_forms(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"mine\.yaml: {message}"):
        _load(tmp_path, text=text)


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(_FILE.encode() + "# é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"mine\.yaml must be UTF-8, got .*: save it as UTF-8"):
        load_sweep(str(tmp_path / "mine.yaml"), scale="tiny")


def test_a_key_with_nothing_behind_it_is_as_if_left_out(tmp_path: Path) -> None:
    sweep = _load(tmp_path, top="claims:\nabout:\nbase:", scale="claims:")
    assert (len(sweep.jobs), sweep.claims) == (4, ())


def test_arms_may_be_called_by_numbers(tmp_path: Path) -> None:
    text = _FILE.replace("  a:", "  1:").replace("  b:", "  2:")
    sweep = _load(tmp_path, text=text, top=f"baseline: 1\nclaims: [{_CLAIM.replace('a - b', '2 - 1')}]")
    assert [job.arm for job in sweep.jobs] == ["1", "2", "1", "2"]
    assert sweep.baseline == "1"


def test_a_run_that_is_asked_for_twice_is_refused(tmp_path: Path) -> None:
    _load(tmp_path)
    file = str(tmp_path / "mine.yaml")
    with pytest.raises(ValueError, match="seeds= has 0 twice, which would count one run as two"):
        load_sweep(file, scale="tiny", seeds=[0, 1, 0])
    with pytest.raises(ValueError, match="arms= has b twice"):
        load_sweep(file, scale="tiny", arms=["b", "b"])
    register_components()
    same_seeds = load_sweep(file, scale="tiny", overrides=["seed=1", f"store={tmp_path}"])
    same_jobs = adhoc_sweep([["seed=0"], ["seed=0"]], name="x", scale="tiny")
    for sweep, label in ((same_seeds, "ops a seed 1"), (same_jobs, "ops run seed 0")):
        with pytest.raises(
            ValueError, match=f"{label} is planned twice, and tables would count one run as two"
        ):
            make_plan(sweep)


def test_seeds_that_are_no_numbers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _load(tmp_path)
    monkeypatch.setattr("sys.argv", ["tokensweep", "plan", str(tmp_path / "mine.yaml"), "seeds=0,x"])
    with pytest.raises(SystemExit):
        main()
    assert "seeds= must be whole numbers, as in seeds=0,1,2, got '0,x'" in capsys.readouterr().err


_SETTINGS = """
arms: {a: {method: dapo}, b: {method: grpo}, c: {method: cispo}}
baseline: c
seeds: [0]
scales: {tiny: {settings: {ops: {data: ops, arms: [a, b]}<more>}}}
"""


def test_an_arm_that_no_setting_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must run every arm in some setting, got none with c: add it"):
        _load(tmp_path, text=_SETTINGS.replace("<more>", ""))


def test_a_plan_names_what_arms_and_settings_change_and_the_setting_without_a_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register_components()
    text = _SETTINGS.replace("<more>", ", easy: {data: ops, data.steps: 2, arms: [a, c]}")
    sweep = _load(tmp_path, text=text)
    jobs = tuple(replace(job, overrides=(*job.overrides, f"store={tmp_path}")) for job in sweep.jobs)
    dry_run(replace(sweep, jobs=jobs), launcher="local")
    told = capsys.readouterr().out
    assert "; 3 arms in 2 settings" in told
    assert "ops: the baseline c is not run, so no arm is compared with it" in told
    lines = told.splitlines()
    assert lines[lines.index("a: method=dapo") :][:5] == [
        "a: method=dapo",
        "b: method=grpo",
        "c: method=cispo",
        "setting ops: nothing but the rest below",
        "setting easy: data.steps=2",
    ]
