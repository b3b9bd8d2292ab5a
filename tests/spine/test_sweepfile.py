"""Sweep files expand to jobs, and say what is wrong with them."""

from pathlib import Path

import pytest

from tokensweep.sweepfile import Sweep, adhoc_sweep, load_sweep, to_overrides

_FILE = """
arms:
  a: {method: dapo}
  b: {method: forking_tokens, method.token_weights.entropy.side: low}
baseline: a
seeds: [0, 1]
scales:
  tiny:
    settings:
      ops: {data: ops}
      countdown: {data: countdown}
  small:
    base: {steps: 3}
    arms: [b]
"""


def _load(tmp_path: Path, text: str = _FILE, **options: object) -> Sweep:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_sweep(str(path), **{"scale": "tiny", **options})  # type: ignore[arg-type]  # passed through


def test_a_sweep_is_the_product_of_seeds_arms_and_settings(tmp_path: Path) -> None:
    sweep = _load(tmp_path)
    assert len(sweep.jobs) == 2 * 2 * 2
    assert sweep.name == "mine-tiny"
    assert [job.setting for job in sweep.jobs[:2]] == ["ops", "countdown"]
    assert sweep.jobs[2].overrides == (
        "scale=tiny",
        "data=ops",
        "method=forking_tokens",
        "method.token_weights.entropy.side=low",
        "seed=0",
    )


def test_a_scale_may_choose_arms_and_change_the_base(tmp_path: Path) -> None:
    jobs = _load(tmp_path, scale="small").jobs
    assert {job.arm for job in jobs} == {"b"}
    assert all("steps=3" in job.overrides for job in jobs)


def test_seeds_arms_and_overrides_of_the_command_line_win(tmp_path: Path) -> None:
    jobs = _load(tmp_path, seeds=[7], arms=["a"], overrides=["steps=9"]).jobs
    assert len(jobs) == 2
    assert all(job.overrides[-2:] == ("seed=7", "steps=9") for job in jobs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_FILE.replace("baseline: a", "baseline: c"), "baseline must be one of the arms a, b"),
        (_FILE.replace("seeds:", "seed:"), "unknown keys seed"),
        (
            _FILE.replace("arms: [b]", "arms: [z]").replace("tiny:", "other:").replace("small:", "tiny:"),
            "no arm z",
        ),
        ("- a list", "must hold a mapping"),
        ("a: [", "no valid YAML"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _load(tmp_path, text)


def test_an_unknown_scale_or_sweep_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose scale=NAME from tiny, small"):
        _load(tmp_path, scale="huge")
    with pytest.raises(ValueError, match=r"no sweep 'nope': known are .*forking_tokens"):
        load_sweep("nope", scale="tiny")


def test_override_strings_survive_hydras_grammar() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    values = {"a": None, "b": True, "c": [1, "x y"], "d": "it's (odd)", "e": 0.5, "f": "tiny", "g": {"k": 2}}
    parsed = OverridesParser.create().parse_overrides(to_overrides(values))
    assert {o.key_or_group: o.value() for o in parsed} == values


def test_an_arm_of_a_multirun_is_what_varies_besides_seed_and_data() -> None:
    jobs = [[f"m.fraction={f}", f"seed={s}", "steps=2"] for f in (0.1, 0.2) for s in (0, 1)]
    sweep = adhoc_sweep(jobs, name="x", scale="tiny")
    assert [job.arm for job in sweep.jobs] == ["fraction=0.1", "fraction=0.1", "fraction=0.2", "fraction=0.2"]
