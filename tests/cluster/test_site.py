"""A site is read with its types, refuses what it does not understand, and holds no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokensweep.cluster.site import load_site, site_request
from tokensweep.paths import conf_dir


def written(folder: Path, text: str) -> str:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return str(path)


def test_every_site_that_ships_can_be_read() -> None:
    folder = conf_dir().parent / "slurm" / "sites"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    assert names == ["devcluster", "example"]
    assert [load_site(name).name for name in names] == names


def test_a_site_of_the_current_folder_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "devcluster.yaml").write_text("partition: mine\n")
    monkeypatch.chdir(tmp_path)
    assert load_site("devcluster").partition == "mine"


def test_no_site_lists_the_sites() -> None:
    with pytest.raises(ValueError, match=r"needs site=NAME: known are devcluster, example"):
        load_site(None)


@pytest.mark.parametrize("name", ["nowhere", "../devcluster", "x/../devcluster"])
def test_a_name_that_is_no_site_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"no site .*: known are devcluster, example"):
        load_site(name)


def test_an_unknown_key_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"cluster.yaml: Key 'partion' not in 'Site'.* the keys of a site are partition"
    ):
        load_site(written(tmp_path, "partion: gpu\n"))


def test_a_value_of_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'many'"):
        load_site(written(tmp_path, "gpus: many\n"))


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cluster\.yaml: "):
        load_site(written(tmp_path, "- gpu\n"))


def test_a_value_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cpus_per_gpu must be at least 1, got 0"):
        load_site(written(tmp_path, "cpus_per_gpu: 0\n"))


def test_a_warning_that_comes_before_the_job_begins_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"signal_s must be shorter than the time limit of report \(30 min\)"
    ):
        load_site(written(tmp_path, "signal_s: 1800\n"))


@pytest.mark.parametrize(
    "line",
    [
        "setup: ['export HF_TOKEN=hf_abc']",
        "setup: ['export MLFLOW_TRACKING_PASSWORD=\"x\"']",
        "proxy: http://me:secret@proxy:3128",
        "srun_args: ['--export=API_KEY=12']",
    ],
)
def test_a_secret_in_a_site_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match="a secret must not stand in a site file"):
        load_site(written(tmp_path, line))


def test_a_secret_that_is_read_from_elsewhere_is_no_secret(tmp_path: Path) -> None:
    load_site(written(tmp_path, "setup: ['. $HOME/.secrets', 'export HF_TOKEN=$(cat token)']"))


def test_a_request_takes_the_run_then_the_stage_then_the_site(tmp_path: Path) -> None:
    site = load_site(
        written(
            tmp_path,
            "{partition: gpu, gpus: 2, cpus_per_gpu: 10, mem_gb_per_gpu: 50, hours: 8, "
            "evaluate: {gpus: 1, hours: 2, partition: small}}",
        )
    )
    train = site_request(site, "train", {"nodes": 2, "gpus": 4, "hours": 1.5})
    assert (train.partition, train.nodes, train.gpus, train.cpus, train.mem_gb) == ("gpu", 2, 4, 40, 200)
    assert (train.minutes, train.ranks) == (90, 4)  # a process per GPU
    assert train.device_hours == 2 * 4 * 1.5
    evaluate = site_request(site, "evaluate", {"cpus": 3})
    assert (evaluate.partition, evaluate.gpus, evaluate.cpus, evaluate.minutes) == ("small", 1, 3, 120)
    assert evaluate.ranks == 1
    report = site_request(site, "report")
    assert (report.gpus, report.cpus, report.mem_gb, report.device_hours) == (0, 2, 8, 1.0)
