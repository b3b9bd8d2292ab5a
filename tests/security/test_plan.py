"""What a plan refuses and what it writes: no secrets, no names that lead elsewhere, a private store."""

from __future__ import annotations

import grp
import json
import os
import stat
from pathlib import Path

import pytest

from tokensweep.cluster.site import load_site
from tokensweep.compose import freeze_run, register_components
from tokensweep.evaluation_job import find_run
from tokensweep.orchestrate import group_of
from tokensweep.plan import Plan, make_plan, plan_evals, write_plan
from tokensweep.sweepfile import adhoc_sweep, load_sweep

_SECRET = "hf_AbCdEf0123456789"
_SMALL = ("scale=smoke", "eval.held_out=2", "eval.num_samples=1", "eval.k=[1]")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    register_components()
    monkeypatch.setenv("HF_TOKEN", _SECRET)


def planned(store: Path, *overrides: str) -> Plan:
    return make_plan(adhoc_sweep([[*_SMALL, f"store={store}", *overrides]], name="mine", scale="smoke"))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        (f"data=gsm8k data.path=/x/{_SECRET}.jsonl", r"data\.path"),
        ("model=hf model.path=${oc.env:HF_TOKEN}", r"model\.path"),
        ("data=gsm8k data.path=http://me:pass-word@host/x", r"data\.path"),
    ],
)
def test_a_run_whose_config_would_hold_a_secret_is_refused(tmp_path: Path, override: str, key: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must not hold"):
        planned(tmp_path / "store", *override.split())
    assert not (tmp_path / "store").exists()


def test_the_password_of_a_tracking_uri_is_in_no_file_of_the_store(tmp_path: Path) -> None:
    uri = f"postgresql://me:{_SECRET}@host/db"
    plan = planned(tmp_path / "store", f"tracking.uri={uri}")
    assert plan.tracking_uri == uri
    write_plan(plan)
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(files) == 4  # config, plan, list of runs and its lock
    assert [path for path in files if _SECRET in path.read_text()] == []


def test_arms_that_differ_in_their_tracking_uri_do_not_show_it() -> None:
    jobs = [["seed=0", f"tracking.uri=http://me:{_SECRET}@{host}"] for host in ("a", "b")]
    assert {job.arm for job in adhoc_sweep(jobs, name="mine", scale="").jobs} == {"run"}


@pytest.mark.parametrize(
    "name", ["../../x", "/x", "a/b", ".hidden", "..", "", "a b", "a\nb", "a" * 101, "é" * 51]
)
def test_a_sweep_whose_name_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the name of a sweep must begin with a letter"):
        adhoc_sweep([["seed=0"]], name=name, scale="")


@pytest.mark.parametrize("name", ["mine", "forking_tokens-tiny", "0.2,0.8", "lr=1e-3", "größe", "a" * 100])
def test_a_sweep_of_this_name_is_taken(name: str) -> None:
    assert adhoc_sweep([["seed=0"]], name=name, scale="").name == name


@pytest.mark.parametrize("arm", ["", " x", "a\tb", "a\u202eb", "\x1b[31mred", "a" * 101])
def test_an_arm_that_cannot_be_shown_is_refused(tmp_path: Path, arm: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"arms": {arm: {"steps": 1}}, "seeds": [0], "scales": {"tiny": {}}}))
    with pytest.raises(
        ValueError, match=r"mine\.yaml: an arm must consist of at most 100 printable"
    ) as refused:
        load_sweep(str(path), scale="tiny")
    assert str(refused.value).isprintable()


def test_a_setting_that_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('{arms: {a: {steps: 1}}, seeds: [0], scales: {tiny: {settings: {"a\\nb": {steps: 1}}}}}')
    with pytest.raises(ValueError, match=r"mine\.yaml: a setting must consist of"):
        load_sweep(str(path), scale="tiny")


def test_an_arm_of_the_command_line_is_shown_without_what_cannot_be_seen() -> None:
    jobs = [["seed=0", "x='a\nb'"], ["seed=0", "x='\x1b[31m'"]]
    arms = [job.arm for job in adhoc_sweep(jobs, name="mine", scale="").jobs]
    assert arms == ["x='a\\nb'", "x='\\x1b[31m'"]


def test_a_suite_whose_name_leads_elsewhere_is_refused() -> None:
    config = freeze_run(_SMALL)
    (node,) = config["eval"]["suites"].values()
    config["eval"]["suites"] = {"../../x": node}
    with pytest.raises(ValueError, match=r"the name of a suite must .* got '\.\./\.\./x'"):
        plan_evals(config, subject="r", step=1, source_of=lambda _: pytest.fail("read before it was checked"))


@pytest.mark.parametrize("override", ["data.exclude=[../../x]", "data.name=../../x"])
def test_a_problem_set_whose_name_leads_elsewhere_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ValueError, match=r"the name of a problem set must .* got '\.\./\.\./x'"):
        planned(tmp_path, "data=gsm8k", override)


@pytest.mark.parametrize("name", ["..", "../..", "*", "", "/", "a/b"])
def test_a_run_is_found_by_its_id_and_not_by_a_way_to_elsewhere(tmp_path: Path, name: str) -> None:
    write_plan(planned(tmp_path / "store"))
    with pytest.raises(ValueError, match="the id of a run"):
        find_run(tmp_path / "store", name)


def test_a_store_is_private(tmp_path: Path) -> None:
    store = tmp_path / "new" / "store"
    write_plan(planned(store))
    assert stat.S_IMODE(store.stat().st_mode) == 0o700


def test_a_site_may_share_a_new_store_with_a_group(tmp_path: Path) -> None:
    site = tmp_path / "shared.yaml"
    site.write_text(f"group: {grp.getgrgid(os.getgid()).gr_name}\n")
    plan = planned(tmp_path / "store", f"site={site}")
    write_plan(plan, group=group_of(plan))
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o2750
    assert group_of(planned(tmp_path / "other")) is None


@pytest.mark.parametrize("line", [f"login --with {_SECRET}", "export http_proxy=http://me:word@proxy"])
def test_a_site_with_a_secret_in_its_lines_is_refused(tmp_path: Path, line: str) -> None:
    site = tmp_path / "careless.yaml"
    site.write_text(json.dumps({"setup": [line]}))
    with pytest.raises(ValueError, match="a secret must not stand in a site file") as refused:
        load_site(str(site))
    assert _SECRET not in str(refused.value)
