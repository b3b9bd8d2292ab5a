"""The doctor on a real SLURM: what a site says must be true of its cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.slurm.cluster import Devcluster

from tokensweep.doctor.cluster import cluster_checks
from tokensweep.doctor.command import diagnose
from tokensweep.doctor.finding import answer

pytestmark = pytest.mark.slurm

_SITE = """\
partition: main
account: dev
qos: normal
gpus: 1
cpus: 2
mem_gb: 3
hours: 0.5
report: {partition: high, gpus: 0, cpus: 1, mem_gb: 2, hours: 0.1}
"""


@pytest.fixture(autouse=True)
def _on_the_cluster(devcluster: Devcluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(devcluster.folder / "slurm.conf"))


def found(site: str | None) -> dict[str, tuple[str, str]]:
    """Level and text by topic."""
    findings = ((check.topic, answer(check)) for check in cluster_checks(site))
    return {topic: (each.level.value, each.found) for topic, each in findings}


def site_with(folder: Path, line: str) -> str:
    """A site that is right but for one key."""
    key = line.partition(":")[0]
    kept = [other for other in _SITE.splitlines() if not other.startswith(f"{key}:")]
    path = folder / "site.yaml"
    path.write_text("\n".join([*kept, line]))
    return str(path)


def test_the_development_cluster_is_well(tmp_path: Path) -> None:
    findings = diagnose(tmp_path, uri=f"sqlite:///{tmp_path}/mlflow.db", site="devcluster")
    levels = {topic: each.level.value for topic, each in findings if topic != "space"}
    assert set(levels.values()) == {"ok"}
    assert {"controller", "accounting", "limits", "account", "train jobs", "report jobs"} <= set(levels)


def test_partitions_and_limits_are_told() -> None:
    told = found(None)
    assert "main* (2 nodes, 168 h), warned (2 nodes, 168 h), high (2 nodes, 168 h)" in told["controller"][1]
    assert told["limits"][1].startswith("arrays of up to 10 tasks, at most 40 tasks in the queue")


@pytest.mark.parametrize(
    ("line", "topic", "words"),
    [
        ("partition: gpu", "train jobs", "there is no partition gpu"),
        ("account: other", "account", "has no account other, but dev"),
        ("qos: fast", "account", "dev may not use the QoS fast"),
        ("hours: 200", "train jobs", "200 h are asked for, main allows 168 h"),
        ("gpu_type: a100", "train jobs", "SLURM would refuse the job: .*configuration is not available"),
        ("gpus: 5", "train jobs", "SLURM would refuse the job: .*configuration is not available"),
        ("constraint: fast", "report jobs", "SLURM would refuse the job: .*feature"),
        ("group: no-such-group", "group", "there is no group no-such-group"),
    ],
)
def test_what_is_not_true_of_the_cluster_is_a_failure(
    tmp_path: Path, line: str, topic: str, words: str
) -> None:
    level, text = found(site_with(tmp_path, line))[topic]
    assert level == "fail"
    assert re.search(words, text), text


def test_a_controller_that_is_away_is_said_once(
    devcluster: Devcluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = (devcluster.folder / "slurm.conf").read_text()
    away = tmp_path / "slurm.conf"  # nothing listens on port 1
    away.write_text(re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=1", conf))
    (tmp_path / "gres.conf").write_text((devcluster.folder / "gres.conf").read_text())
    monkeypatch.setenv("SLURM_CONF", str(away))
    findings = dict(diagnose(tmp_path, uri=f"sqlite:///{tmp_path}/mlflow.db", site="devcluster"))
    assert findings["controller"].level.value == "fail"
    assert re.search("no answer within 4 s|Unable to contact slurm", findings["controller"].found)
    assert findings["site"].level.value == "ok"
    assert not {"limits", "accounting", "train jobs"} & set(findings)


def test_a_configuration_that_is_not_there_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    told = found("devcluster")
    assert told["SLURM"] == ("fail", f"SLURM_CONF={tmp_path}/slurm.conf is no file")
    assert "controller" not in told
    assert found(None)["SLURM"][0] == "warn"
