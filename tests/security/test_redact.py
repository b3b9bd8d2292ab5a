"""Secrets of the environment are taken out of whatever is written down."""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tokensweep import worker
from tokensweep.ledger import Attempt, close_dead, read_run
from tokensweep.redact import RedactedText, is_secret_name, redact, redact_error, refuse_secrets
from tokensweep.worker import RunJob

_SECRET = "hf_AbCdEf0123456789"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """One secret, and variables that look like one."""
    for name in [name for name in os.environ if is_secret_name(name)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", _SECRET)
    monkeypatch.setenv("TOKENSWEEP_HOME", "/data/tokensweep")
    monkeypatch.setenv("SHORT_PASSWORD", "postgre")


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"),
        *("MLFLOW_TRACKING_PASSWORD", "MYSQL_PWD", "GOOGLE_APPLICATION_CREDENTIALS", "ssh_passphrase"),
        *("SLURM_JWT", "OPENAI_APIKEY", "GITHUB_PAT", "DB_PASS", "REDIS_AUTH", "CLIENT_SECRET", "DB_PASSWD"),
    ],
)
def test_the_name_says_that_the_value_is_a_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("PWD", "OLDPWD", "HOME", "PATH", "TOKENSWEEP_HOME", "TOKENSWEEP_PATH", "TOKENIZERS_PARALLELISM"),
        *("MAX_TOKENS", "SSH_AUTH_SOCK", "HF_TOKEN_PATH", "TOKEN_TYPE", "SSH_ASKPASS", "COMPASS", "KEYBOARD"),
    ],
)
def test_the_name_is_that_of_no_secret(name: str) -> None:
    assert not is_secret_name(name)


def test_values_are_replaced_by_the_name_of_their_variable() -> None:
    assert redact(f"401 for {_SECRET}, see x{_SECRET}x") == "401 for ***HF_TOKEN***, see x***HF_TOKEN***x"
    assert redact("postgresql is kept in /data/tokensweep") == "postgresql is kept in /data/tokensweep"


def test_a_secret_that_contains_another_is_replaced_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", f"{_SECRET}-and-more")
    assert redact(f"<{_SECRET}-and-more>") == "<***A_TOKEN***>"


def test_a_secret_is_found_however_it_is_spelt(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = 'pa"ss\\wörd /x@'
    monkeypatch.setenv("DB_PASSWORD", secret)
    for text in (secret, json.dumps({"a": secret}), repr(secret), "pa%22ss%5Cw%C3%B6rd%20%2Fx%40"):
        assert "wör" not in redact(text)
        assert "w%C3" not in redact(text)
        assert "***DB_PASSWORD***" in redact(text)


def test_every_line_of_a_private_key_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "DEPLOY_KEY", "-----BEGIN KEY-----\nMIIEowIBAAKCAQEA\nq83vEjRWeJA=\n-----END KEY-----\n"
    )
    assert (
        redact("read q83vEjRWeJA= from -----BEGIN KEY-----")
        == "read ***DEPLOY_KEY*** from -----BEGIN KEY-----"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:word@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("http://me:p@ss:word@host/x", "http://me:***@host/x"),
        ("at 'https://:word@host', at http://a:b@c", "at 'https://:***@host', at http://a:***@c"),
        ("postgresql://host/db?user=me&password=word&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("http://host:5000/a:b@c", "http://host:5000/a:b@c"),
        ("http://me@host and me:word@host", "http://me@host and me:word@host"),
    ],
)
def test_passwords_in_urls_are_taken_out(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_password_in_the_url_of_a_variable_is_a_secret_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:correct-horse@proxy:3128")
    assert redact("proxy refused 'correct-horse'") == "proxy refused '***https_proxy***'"


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[tuple[RedactedText, Callable[[], str]]]:
    """A redacting stream and what has reached its file."""
    path = tmp_path / "log.txt"
    with RedactedText(path.open("ab")) as opened:
        yield opened, path.read_text


def test_a_line_is_redacted_as_a_whole_however_it_is_written(
    stream: tuple[RedactedText, Callable[[], str]],
) -> None:
    file, written = stream
    for character in f"token {_SECRET} end":
        file.write(character)
    assert written() == ""
    print(" of it\nnext", end="", file=file)
    assert written() == "token ***HF_TOKEN*** end of it\n"
    file.flush()
    assert written() == "token ***HF_TOKEN*** end of it\nnext"
    file.writelines([" ", _SECRET, "\n"])
    assert written() == "token ***HF_TOKEN*** end of it\nnext ***HF_TOKEN***\n"


def test_what_was_not_ended_is_written_at_the_end(tmp_path: Path) -> None:
    with RedactedText((tmp_path / "log.txt").open("ab")) as file:
        print(f"last words: {_SECRET}", end="", file=file)
    assert (tmp_path / "log.txt").read_text() == "last words: ***HF_TOKEN***"


def test_an_error_its_causes_and_notes_are_redacted_in_place() -> None:
    cause = OSError(2, "no file", f"/x/{_SECRET}")
    group = ExceptionGroup("two", [KeyError(_SECRET), ValueError(1, f"bad {_SECRET}")])
    group.add_note(f"with {_SECRET}")
    group.__cause__ = cause
    cause.__context__ = group  # a ring, as libraries make them
    redact_error(group)
    cause.__context__ = None
    assert _SECRET not in "".join(traceback.format_exception(group))
    assert str(cause) == "[Errno 2] no file: '/x/***HF_TOKEN***'"
    assert [error.args for error in group.exceptions] == [("***HF_TOKEN***",), (1, "bad ***HF_TOKEN***")]
    assert group.__notes__ == ["with ***HF_TOKEN***"]


def test_a_failing_worker_writes_no_secret_into_its_folder_and_raises_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leak(*arguments: object, **options: object) -> bool:
        print("stdout", _SECRET)
        logger = logging.Logger("a_library")
        logger.addHandler(logging.StreamHandler())
        logger.warning("log %s", _SECRET)
        os.write(1, b"native code is not filtered\n")
        try:
            raise RuntimeError(f"GET https://me:{_SECRET}@host failed")
        except RuntimeError as error:
            raise ValueError(f"bad token {_SECRET}") from error

    monkeypatch.setattr(worker, "_work", leak)
    with pytest.raises(ValueError, match=r"bad token \*\*\*HF_TOKEN\*\*\*$") as raised:
        RunJob(tmp_path / "runs" / "r1")()
    assert _SECRET not in "".join(traceback.format_exception(raised.value))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if _SECRET in path.read_text()] == []
    assert read_run(tmp_path / "runs" / "r1").error == "bad token ***HF_TOKEN***"
    log = (tmp_path / "runs/r1/attempts/000/log.txt").read_text()
    for line in ("stdout ***HF_TOKEN***", "log ***HF_TOKEN***", "native code is not filtered"):
        assert line in log.splitlines()
    assert "RuntimeError: GET https://me:***@host failed" in log.replace("***HF_TOKEN***", "***")


def test_no_event_of_a_ledger_holds_a_secret(tmp_path: Path) -> None:
    with Attempt.open(tmp_path) as attempt:
        attempt.failed(RuntimeError(_SECRET))
    close_dead(tmp_path, f"killed: {_SECRET}", error_class="killed")
    ledgers = [path.read_text() for path in sorted(tmp_path.glob("attempts/*/events.jsonl"))]
    assert len(ledgers) == 2
    assert all("***HF_TOKEN***" in text and _SECRET not in text for text in ledgers)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": {"path": f"/x/{_SECRET}/y"}}, r"model\.path must not hold the value of \$HF_TOKEN"),
        ({"data": {"exclude": ["a", _SECRET]}}, r"data\.exclude must not hold the value of \$HF_TOKEN"),
        ({"data": {_SECRET: 1}}, r"a key must not hold the value of \$HF_TOKEN"),
        ({"data": {"path": "http://me:word@host"}}, r"data\.path must not hold a URL with a password"),
    ],
)
def test_a_config_with_a_secret_is_refused_by_its_key(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        refuse_secrets({"seed": 0, **config})
    assert _SECRET not in str(refused.value)
    assert "word@" not in str(refused.value)


def test_a_number_can_be_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "1234567890")
    with pytest.raises(ValueError, match="seed must not hold"):
        refuse_secrets({"seed": 1234567890})


def test_a_tracking_uri_may_hold_a_password_as_it_is_never_written() -> None:
    refuse_secrets({"tracking": {"uri": f"postgresql://me:{_SECRET}@host/db"}, "seed": 0})
