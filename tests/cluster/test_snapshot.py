"""A snapshot runs as the code that was planned, whatever becomes of the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.cluster.code import TAKE, contents, python, roots, taken, write

from tokensweep import identity
from tokensweep.cluster.snapshot import open_snapshot, take_snapshot
from tokensweep.files import write_json

_PLAN = """
import sys
from pathlib import Path
from tokensweep.cluster.snapshot import take_snapshot
from tokensweep.compose import register_components
from tokensweep.plan import make_plan, write_plan
from tokensweep.sweepfile import adhoc_sweep
register_components()
plan = make_plan(adhoc_sweep([sys.argv[2:]], name="edited", scale="smoke"))
write_plan(plan)
print(plan.runs[0].dir(plan.store))
print(take_snapshot(Path(sys.argv[1])).folder)
"""
_SMALL_RUN = (
    *("method=mine", "scale=smoke", "data.steps=1", "data.size=16", "data.max_tokens=8", "batch.prompts=2"),
    *("steps=1", "checkpoint.every=1", "eval.held_out=2", "eval.num_samples=1", "eval.k=[1]"),
    *("model.hidden=24", "model.layers=1", "model.heads=1", "model.head_dim=16", "model.mlp=32"),
    "model.steps=1",
)


def test_a_snapshot_has_the_layout_of_an_installed_package(tmp_path: Path) -> None:
    files = contents(take_snapshot(tmp_path).folder)
    expected = [
        "lib/tokensweep/__init__.py",
        "lib/tokensweep/py.typed",
        "lib/tokensweep/conf/train.yaml",
        "lib/tokensweep/sweeps/forking_tokens.yaml",
        "lib/tokensweep/slurm/sites/example.yaml",
        "lib/tokensweep_analysis/report.py",
        "lib/hydra_plugins/tokensweep_plugins.py",
    ]
    assert [name for name in expected if name not in files] == []
    assert all(name.startswith("lib/") for name in files)


def test_nothing_of_this_repository_is_taken_for_a_secret_or_for_data(tmp_path: Path) -> None:
    record = json.loads((take_snapshot(tmp_path).folder / "snapshot.json").read_text())
    assert record["left_out"] == {}


def test_a_snapshot_of_installed_code_is_the_snapshot_of_its_checkout(checkout: Path, tmp_path: Path) -> None:
    of_checkout = taken(checkout, tmp_path / "store")
    # What it holds is laid out as site-packages are, with other packages beside it.
    installed = tmp_path / "site-packages"
    shutil.copytree(of_checkout.folder / "lib", installed)
    write(installed / "hydra_plugins" / "somebody_elses.py", "raise RuntimeError")
    done = python(TAKE, tmp_path / "other", paths=[installed], cwd=tmp_path)
    assert Path(done.stdout.strip()).name == of_checkout.folder.name, done.stderr
    assert contents(Path(done.stdout.strip())) == contents(of_checkout.folder)


def test_code_on_the_python_path_wins_over_an_editable_install_and_the_current_folder(
    source: Path, tmp_path: Path
) -> None:
    snapshot = take_snapshot(tmp_path / "store")
    venv.create(tmp_path / "env", with_pip=False)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "_editable.pth").write_text("".join(f"{root}\n" for root in roots(source)))
    code = (
        "import tokensweep, tokensweep_analysis\nfrom tokensweep.paths import conf_dir\n"
        "print(tokensweep.__file__, tokensweep_analysis.__file__, conf_dir())"
    )
    write(source / "runner" / "main.py", code)
    python_of_env = str(tmp_path / "env" / "bin" / "python")

    def found(env: Mapping[str, str]) -> list[str]:
        command = [python_of_env, "-m", "main"] if not env else [python_of_env, "-c", code]
        done = subprocess.run(
            command, env=dict(env), cwd=source / "runner", capture_output=True, text=True, check=False
        )
        return done.stdout.split() or [done.stderr]

    assert all(path.startswith(str(source)) for path in found({})), "the editable install must be found"
    assert all(path.startswith(f"{snapshot.folder}/lib/") for path in found(snapshot.environment))


def test_the_code_of_a_snapshot_is_the_code_of_its_source(extension: Path, tmp_path: Path) -> None:
    write(extension / "conf" / "method" / "mine.yaml", "defaults: [grpo]\nname: mine\n")
    snapshot = take_snapshot(tmp_path / "store")
    code = (
        "from tokensweep.identity import code_sha\nfrom tokensweep.paths import extension_dirs\n"
        "from tokensweep.compose import compose_config, register_components\nregister_components()\n"
        "print(code_sha(), compose_config(['method=mine']).method.name, *extension_dirs())"
    )
    done = python(code, paths=[], cwd=tmp_path, env=snapshot.environment)
    expected = [identity.code_sha(), "mine", str(snapshot.folder / "extensions" / "0")]
    assert done.stdout.split() == expected, done.stderr


def test_edits_after_the_snapshot_do_not_change_a_run(source: Path, tmp_path: Path) -> None:
    extension = tmp_path / "extension"
    write(extension / "methods" / "mine.py", "X = 1\n")
    write(extension / "conf" / "method" / "mine.yaml", "defaults:\n  - grpo\n")
    mine = {"TOKENSWEEP_PATH": str(extension), "OMP_NUM_THREADS": "1"}
    store = tmp_path / "store"
    planned = python(_PLAN, store, *_SMALL_RUN, f"store={store}", paths=roots(source), cwd=tmp_path, env=mine)
    assert planned.returncode == 0, planned.stderr
    run_dir, folder = map(Path, planned.stdout.split())
    for edited in (source / "runner/tokensweep/train/trainer.py", extension / "methods/mine.py"):
        edited.write_text("raise RuntimeError('edited')\n")
    (source / "conf/train.yaml").write_text("steps: 99\n")
    (extension / "conf/method/mine.yaml").write_text("steps: 99\n")
    work = "import runpy; runpy.run_module('tokensweep.worker', run_name='__main__', alter_sys=True)"
    live = python(work, run_dir, paths=roots(source), cwd=tmp_path, env=mine)
    assert live.returncode == 1, "the edit must be felt by who runs the edited code"
    environment = {**open_snapshot(folder).environment, "OMP_NUM_THREADS": "1"}
    done = python(work, run_dir, paths=[], cwd=source / "runner", env=environment)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (run_dir / "attempts/000/events.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in events][-1] == "finished"


def test_the_same_code_is_copied_once_and_other_code_beside_it(extension: Path, tmp_path: Path) -> None:
    first = take_snapshot(tmp_path / "store")
    before = (first.folder / "snapshot.json").stat()
    assert take_snapshot(tmp_path / "store") == first
    assert (first.folder / "snapshot.json").stat() == before
    write(extension / "conf" / "more.yaml", "a: 1\n")
    second = take_snapshot(tmp_path / "store")
    assert second.folder.parent == first.folder.parent
    assert second.folder != first.folder
    assert len({first, second, open_snapshot(first.folder)}) == 2


def test_processes_that_take_it_at_once_share_one_complete_snapshot(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKE, str(tmp_path / "store")]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, roots(source)))}
    started = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, cwd=tmp_path) for _ in range(3)
    ]
    folders = {process.communicate(timeout=120)[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert [str(path) for path in (tmp_path / "store" / "snapshots").iterdir()] == list(folders)


def test_a_process_that_is_second_takes_the_snapshot_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = take_snapshot(tmp_path / "first").folder
    late = tmp_path / "late" / "snapshots" / finished.name

    def and_meanwhile(path: Path, value: object) -> None:
        write_json(path, value)
        shutil.copytree(finished, late, dirs_exist_ok=True)

    monkeypatch.setattr("tokensweep.cluster.snapshot.write_json", and_meanwhile)
    assert take_snapshot(tmp_path / "late").folder == late
    assert list(late.parent.iterdir()) == [late]


def test_a_snapshot_that_could_not_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as broken:
        broken.setattr("tokensweep.cluster.snapshot.write_json", full)
        with pytest.raises(OSError, match="No space left"):
            take_snapshot(tmp_path)
    assert list((tmp_path / "snapshots").iterdir()) == []
    assert take_snapshot(tmp_path).folder.is_dir()


@pytest.mark.parametrize("what", ["changed", "added", "removed", "record"])
def test_a_snapshot_that_was_altered_is_not_used_again(tmp_path: Path, what: str) -> None:
    folder = take_snapshot(tmp_path).folder
    file = folder / "lib/tokensweep/seeds.py"
    if what == "changed":
        file.chmod(0o644)
        file.write_text(file.read_text() + "# another\n")
    elif what == "added":
        (folder / "lib/tokensweep/loss/extra.py").write_text("")
    else:
        (file if what == "removed" else folder / "snapshot.json").unlink()
    with pytest.raises(ValueError, match="remove the folder of the snapshot"):
        take_snapshot(tmp_path)


def test_compiled_files_that_python_adds_alter_nothing(tmp_path: Path) -> None:
    snapshot = take_snapshot(tmp_path)
    python("import tokensweep.seeds", paths=[], cwd=tmp_path, env=snapshot.environment)
    assert list((snapshot.folder / "lib/tokensweep/__pycache__").glob("seeds*.pyc"))
    assert take_snapshot(tmp_path) == snapshot


def test_extensions_keep_their_order_and_bring_only_what_is_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / f"e{number}" for number in range(11)]
    for number, folder in enumerate(folders):
        write(folder / "methods" / "m.py", f"X = {number}\n")
        write(folder / "notes" / "diary.txt", "mine")
    monkeypatch.setenv("TOKENSWEEP_PATH", os.pathsep.join(map(str, folders)))
    identity.code_sha.cache_clear()
    try:
        snapshot = take_snapshot(tmp_path / "store")
    finally:
        identity.code_sha.cache_clear()
    copies = [Path(entry) for entry in snapshot.environment["TOKENSWEEP_PATH"].split(os.pathsep)]
    assert [(copy / "methods/m.py").read_text() for copy in copies] == [f"X = {n}\n" for n in range(11)]
    assert not any("diary" in name for name in contents(snapshot.folder))


def test_a_store_whose_path_has_a_colon_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="path of the store must not hold ':'"):
        take_snapshot(tmp_path / "a:b")
    assert list(tmp_path.iterdir()) == []


def test_what_lies_in_the_store_is_no_code(extension: Path) -> None:
    store = extension / "sweeps" / "store"
    write(store / "runs/x.yaml", "a: 1\n")
    folder = take_snapshot(store).folder
    assert [name for name in contents(folder) if "x.yaml" in name] == []
