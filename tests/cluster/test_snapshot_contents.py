"""What of the code goes into a snapshot, what git says of it, and what never does: secrets, weights, data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.cluster.code import contents, git, taken, write

from tokensweep import identity
from tokensweep.cluster.snapshot import take_snapshot
from tokensweep.cluster.sources import reason_to_leave_out


def test_without_git_everything_but_what_python_generates_is_copied(source: Path, tmp_path: Path) -> None:
    write(source / "runner/tokensweep/__pycache__/x.pyc", "")
    write(source / "conf/ignored.yaml", "")
    snapshot = taken(source, tmp_path / "store")
    assert (snapshot.commit, snapshot.dirty) == (None, False)
    assert not (snapshot.folder / "git.json").exists()
    names = contents(snapshot.folder)
    assert "lib/tokensweep/conf/ignored.yaml" in names
    assert not any("pyc" in name for name in names)


def test_a_machine_without_git_takes_a_snapshot_of_a_checkout(checkout: Path, tmp_path: Path) -> None:
    snapshot = taken(checkout, tmp_path / "store", env={"PATH": str(tmp_path)})
    assert snapshot.commit is None
    assert "lib/tokensweep/conf/train.yaml" in contents(snapshot.folder)


def test_a_checkout_that_was_changed_can_be_rebuilt_from_commit_and_patch(
    checkout: Path, tmp_path: Path
) -> None:
    clean = taken(checkout, tmp_path / "store")
    assert (clean.commit, clean.dirty) == (git(checkout, "rev-parse", "HEAD"), False)
    assert not (clean.folder / "dirty.patch").exists()
    git(tmp_path, "clone", "--quiet", str(checkout), "clone")

    seeds = checkout / "runner/tokensweep/seeds.py"
    seeds.write_bytes(seeds.read_bytes() + "# größer\n".encode("latin-1"))  # no UTF-8: git does not care
    (checkout / "sweeps/gmpo.yaml").unlink()
    write(checkout / "conf/method/new.yaml", "a: 1\n")
    write(checkout / "conf/method/ignored.yaml", "a: 1\n")
    git(checkout, "config", "diff.noprefix", "true")  # what users have in their configuration
    git(checkout, "config", "color.ui", "always")
    changed = taken(checkout, tmp_path / "store")
    assert (changed.commit, changed.dirty) == (clean.commit, True)
    told = json.loads((changed.folder / "git.json").read_text())
    assert told["branch"] == "trunk"
    assert told["changed"] == ["runner/tokensweep/seeds.py", "sweeps/gmpo.yaml"]
    assert told["untracked"] == ["conf/method/new.yaml"]

    git(tmp_path / "clone", "apply", str(changed.folder / "dirty.patch"))
    write(tmp_path / "clone/conf/method/new.yaml", "a: 1\n")
    rebuilt = taken(tmp_path / "clone", tmp_path / "other")
    assert rebuilt.folder.name == changed.folder.name


def test_code_that_is_committed_later_is_no_longer_called_dirty(checkout: Path, tmp_path: Path) -> None:
    write(checkout / "conf/method/new.yaml", "a: 1\n")
    dirty = taken(checkout, tmp_path / "store")
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message=new")
    clean = taken(checkout, tmp_path / "store")
    assert (dirty.dirty, clean.dirty) == (True, False)
    assert clean.folder == dirty.folder
    assert clean.commit == git(checkout, "rev-parse", "HEAD")
    assert not (clean.folder / "dirty.patch").exists()


def test_a_checkout_of_a_colleague_is_read(checkout: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "nobody", str(checkout)], check=True)
    assert taken(checkout, tmp_path / "store").commit == git(
        checkout, "-c", "safe.directory=*", "log", "--format=%H"
    )


def test_secrets_that_git_tracks_are_in_neither_copy_nor_patch(checkout: Path, tmp_path: Path) -> None:
    write(checkout / "conf/.env", "KEY=tracked-0\n")
    write(checkout / "deploy/server.pem", "tracked-1\n")
    git(checkout, "add", "--all", "--force")
    git(checkout, "commit", "--quiet", "--message=careless")
    write(checkout / "conf/.env", "KEY=changed-0\n")
    (checkout / "deploy/server.pem").rename(checkout / "deploy/moved.pem")
    git(checkout, "add", "--all", "--force")
    write(checkout / "conf/method/grpo.yaml", "# edited\n")
    snapshot = taken(checkout, tmp_path / "store")
    everything = b"".join(path.read_bytes() for path in snapshot.folder.rglob("*") if path.is_file())
    assert b"# edited" in (snapshot.folder / "dirty.patch").read_bytes()
    assert not any(text in everything for text in (b"tracked-0", b"tracked-1", b"changed-0"))
    told = json.loads((snapshot.folder / "git.json").read_text())
    assert set(told["left_out_of_patch"]) == {"conf/.env", "deploy/server.pem", "deploy/moved.pem"}
    record = json.loads((snapshot.folder / "snapshot.json").read_text())
    assert record["left_out"] == {str(checkout / "conf/.env"): "may hold a secret, by its name"}


def test_a_patch_that_removes_a_secret_does_not_hold_it(checkout: Path, tmp_path: Path) -> None:
    write(checkout / "conf/method/new.yaml", "token: hf_0123456789\n")
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message=careless")
    write(checkout / "conf/method/new.yaml", "token: null\n")
    snapshot = taken(checkout, tmp_path / "store", env={"HF_TOKEN": "hf_0123456789"})
    assert "-token: ***HF_TOKEN***" in (snapshot.folder / "dirty.patch").read_text()
    assert json.loads((snapshot.folder / "git.json").read_text())["redacted"] is True


def test_a_users_own_folder_may_lie_in_the_store(checkout: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    write(store / "mine/methods/mine.py", "# mine\n")
    snapshot = taken(checkout, store, env={"TOKENSWEEP_PATH": str(store / "mine")})
    assert (snapshot.folder / "extensions/0/methods/mine.py").read_text() == "# mine\n"


def test_code_that_holds_a_secret_of_the_environment_is_refused(
    extension: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(extension / "methods/mine.py", "TOKEN = 'hf_0123456789'\n")
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    with pytest.raises(ValueError, match=r"mine\.py must not hold the value of \$HF_TOKEN") as refused:
        take_snapshot(tmp_path / "store")
    assert "hf_0123456789" not in str(refused.value)
    assert not (tmp_path / "store" / "snapshots").exists()


@pytest.mark.parametrize(
    "name",
    [
        *(".env", ".env.local", "prod.env", "server.pem", "tls.KEY", "id_rsa", "id_rsa.pub", "id_ed25519"),
        *("credentials", "credentials.json", "gcp-credentials.json", ".netrc", "a.netrc", ".pgpass"),
        *("hf_token.txt", "my-Token.txt", "token", ".token", "secrets.yaml", "passwords.txt"),
        *(".ssh/config", ".aws/config", "service_account_x.json", "api_key", ".git-credentials"),
        *("model.safetensors", "model.pt", "pytorch_model.bin", "samples.parquet", "x.tar.gz", "a.npz"),
    ],
)
def test_a_file_of_this_name_stays_behind(name: str) -> None:
    assert reason_to_leave_out(Path("conf") / name, size=10)


@pytest.mark.parametrize(
    "name",
    [
        *("forking_tokens.yaml", "tokenizer.json", "special_tokens_map.json", "tokens.py", "keys.py"),
        *("monkey.py", "environment.yaml", "binary.yaml", "dataset.py", "key.yaml", "bind.py"),
    ],
)
def test_a_file_of_this_name_is_copied(name: str) -> None:
    assert reason_to_leave_out(Path("conf") / name, size=10) is None


def test_a_table_is_copied_while_it_is_small() -> None:
    assert reason_to_leave_out(Path("conf/few.jsonl"), size=100_000) is None
    assert (
        reason_to_leave_out(Path("conf/many.jsonl"), size=100_001) == "data: 100,001 bytes, more than 100,000"
    )


def test_code_whose_name_looks_like_a_secret_is_refused_and_not_forgotten(
    extension: Path, tmp_path: Path
) -> None:
    write(extension / "methods/credentials.py", "X = 1\n")
    with pytest.raises(ValueError, match=r"credentials\.py is code .* not copied \(may hold a secret"):
        take_snapshot(tmp_path / "store")


def test_code_that_git_ignores_is_refused_and_not_forgotten(extension: Path, tmp_path: Path) -> None:
    git(extension, "init", "--quiet")
    write(extension / ".gitignore", "scratch*\n")
    write(extension / "methods/scratch.py", "X = 1\n")
    with pytest.raises(ValueError, match=r"scratch\.py is code .* not copied \(git ignores it\)"):
        take_snapshot(tmp_path / "store")


def test_code_that_changes_between_plan_and_snapshot_is_refused(extension: Path, tmp_path: Path) -> None:
    identity.code_sha()  # as the plan did
    write(extension / "methods/mine.py", "X = 2\n")
    with pytest.raises(ValueError, match="changed while it was being planned"):
        take_snapshot(tmp_path / "store")


def test_links_are_followed_within_their_folder_only(extension: Path, tmp_path: Path) -> None:
    write(tmp_path / "private.yaml", "mine\n")
    write(extension / "conf/.env", "mine\n")
    write(extension / "conf/a.yaml", "a: 1\n")
    (extension / "conf/b.yaml").symlink_to("a.yaml")
    (extension / "conf/out.yaml").symlink_to(tmp_path / "private.yaml")
    (extension / "conf/renamed.yaml").symlink_to(".env")
    (extension / "conf/gone.yaml").symlink_to("nowhere.yaml")
    (extension / "sweeps").symlink_to(tmp_path)
    os.mkfifo(extension / "conf/pipe.yaml")
    folder = take_snapshot(tmp_path / "store").folder
    copied = [name for name in contents(folder) if name.startswith("extensions/0/conf")]
    assert sorted(copied) == ["extensions/0/conf/a.yaml", "extensions/0/conf/b.yaml"]
    assert not (folder / "extensions/0/conf/b.yaml").is_symlink()
    left_out = json.loads((folder / "snapshot.json").read_text())["left_out"]
    assert {Path(path).name: reason for path, reason in left_out.items()} == {
        ".env": "may hold a secret, by its name",
        "out.yaml": "a link that leads out of its folder",
        "renamed.yaml": "may hold a secret, by its name",
        "gone.yaml": "a link that leads nowhere",
        "sweeps": "a link that leads out of its folder",
        "pipe.yaml": "no regular file",
    }


def test_code_behind_a_link_to_elsewhere_is_refused(extension: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/mine.py", "X = 1\n")
    shutil.rmtree(extension / "methods")
    (extension / "methods").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"mine\.py is code .* \(a link that leads out of its folder\)"):
        take_snapshot(tmp_path / "store")


@pytest.mark.parametrize(("files", "size"), [(1, 5_000_001), (11, 4_900_000)])  # 11 x 4.9 MB > 50 MB
def test_too_much_is_refused_with_the_largest_files(
    extension: Path, tmp_path: Path, files: int, size: int
) -> None:
    for number in range(files):
        write(extension / f"conf/big{number}.yaml", "")
        os.truncate(extension / f"conf/big{number}.yaml", size)
    with pytest.raises(ValueError, match=rf"the largest are .*conf/big0\.yaml \({size:,}\).*move data"):
        take_snapshot(tmp_path / "store")
