"""The journal of a study: torn lines, full disks, locks of the dead, many writers."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from tokensweep.search.journal import Journal, JournalLock
from tokensweep.search.storage import open_storage

_FORK = multiprocessing.get_context("fork")


def _new_study(storage: BaseStorage, *, trials: int = 0) -> int:
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE], "s")
    for _ in range(trials):
        storage.create_new_trial(study_id)
    return study_id


def _numbers(folder: Path) -> list[int]:
    storage = open_storage(folder, uri="")
    return [trial.number for trial in storage.get_all_trials(storage.get_study_id_from_name("s"))]


def _log(folder: Path) -> Path:
    return folder / "journal.log"


def test_a_line_that_is_torn_anywhere_is_ignored_and_then_cut(tmp_path: Path) -> None:
    storage = open_storage(tmp_path, uri="")
    study_id = _new_study(storage, trials=1)
    whole = _log(tmp_path).read_bytes()
    storage.create_new_trial(study_id)
    record = _log(tmp_path).read_bytes()[len(whole) :]
    for length in range(
        len(record) - 1
    ):  # the last byte is its newline: see the next test for the one before
        _log(tmp_path).write_bytes(whole + record[:length])
        assert _numbers(tmp_path) == [0], length
        assert _log(tmp_path).read_bytes() == whole + record[:length], "a reader has changed the file"
        open_storage(tmp_path, uri="").create_new_trial(study_id)
        assert _numbers(tmp_path) == [0, 1], length
        assert _log(tmp_path).read_bytes().startswith(whole + b'{"op_code":4,'), length


def test_a_record_that_lacks_only_its_newline_is_kept(tmp_path: Path) -> None:
    study_id = _new_study(open_storage(tmp_path, uri=""), trials=2)
    content = _log(tmp_path).read_bytes()
    _log(tmp_path).write_bytes(content[:-1])
    assert _numbers(tmp_path) == [0]
    open_storage(tmp_path, uri="").create_new_trial(study_id)
    assert _numbers(tmp_path) == [0, 1, 2]
    assert _log(tmp_path).read_bytes().startswith(content)


def test_zeros_at_the_end_are_cut_however_many(tmp_path: Path) -> None:
    study_id = _new_study(open_storage(tmp_path, uri=""), trials=1)
    for zeros in (1, 300, 4095, 4096, 20_000):
        before = _log(tmp_path).read_bytes()
        _log(tmp_path).write_bytes(before + bytes(zeros))
        open_storage(tmp_path, uri="").create_new_trial(study_id)
        assert _log(tmp_path).read_bytes().startswith(before + b"{")
        assert b"\0" not in _log(tmp_path).read_bytes()
    assert _numbers(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_a_file_that_is_one_torn_line_starts_afresh(tmp_path: Path) -> None:
    _log(tmp_path).write_bytes(b'{"op_code":0,"worker')
    _new_study(open_storage(tmp_path, uri=""), trials=1)
    assert _numbers(tmp_path) == [0]


@pytest.mark.parametrize("damaged", [bytes(120), b"x" * 120, b"", b"[]", b'{"op_code":4,"worker_id":"w'])
def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path: Path, damaged: bytes) -> None:
    _new_study(open_storage(tmp_path, uri=""), trials=2)
    first, second, third = _log(tmp_path).read_bytes().splitlines()
    _log(tmp_path).write_bytes(b"\n".join([first, damaged, third, b""]))
    with pytest.raises(ValueError, match=r"journal\.log: line 2 must .*\(head -n 1 journal\.log\)"):
        open_storage(tmp_path, uri="")
    assert second not in _log(tmp_path).read_bytes()


def test_damage_in_a_last_whole_line_is_not_cut_but_an_error_once_another_follows(tmp_path: Path) -> None:
    storage = open_storage(tmp_path, uri="")
    study_id = _new_study(storage)
    with _log(tmp_path).open("ab") as file:
        file.write(bytes(80) + b"\n")
    with pytest.raises(ValueError, match="line 2 must be a record"):
        storage.create_new_trial(study_id)
    assert bytes(80) in _log(tmp_path).read_bytes()


def test_a_record_behind_a_torn_one_is_said_to_be_whole(tmp_path: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(_log(tmp_path))))  # Optuna's own, which does not cut
    study_id = _new_study(storage, trials=1)
    with _log(tmp_path).open("ab") as file:
        file.write(b'{"op_code":4,"wor')  # 17 bytes
    assert storage.create_new_trial(study_id) == 0  # the one that it had before: it did not notice
    with pytest.raises(json.JSONDecodeError):
        storage.create_new_trial(study_id)
    with pytest.raises(ValueError, match=r"line 3 must .* delete the first 17 bytes of that line"):
        open_storage(tmp_path, uri="")
    _log(tmp_path).write_bytes(_log(tmp_path).read_bytes().replace(b'{"op_code":4,"wor{', b"{"))
    assert _numbers(tmp_path)[:2] == [0, 1]


def test_a_file_that_lost_what_was_read_is_an_error(tmp_path: Path) -> None:
    storage = open_storage(tmp_path, uri="")
    study_id = _new_study(storage, trials=1)
    first = _log(tmp_path).read_bytes().splitlines(keepends=True)[0]
    _log(tmp_path).write_bytes(first)
    with pytest.raises(ValueError, match="must only grow"):
        storage.get_all_trials(study_id)


def test_a_full_disk_leaves_the_record_before_and_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(tmp_path, uri="")
    study_id = _new_study(storage, trials=1)
    before = _log(tmp_path).read_bytes()
    real = os.write
    for room in range(0, 100, 9):
        left = room

        def short(descriptor: int, data: bytes) -> int:
            nonlocal left
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = real(descriptor, data[:left])
            left -= written
            return written

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", short)
            with pytest.raises(OSError, match=r"journal\.log could not be written \(No space left") as caught:
                storage.create_new_trial(study_id)
        assert caught.value.errno == errno.ENOSPC
        assert _log(tmp_path).read_bytes() == before
        assert not _log(tmp_path).with_name("journal.log.lock").exists()
    storage.create_new_trial(study_id)
    assert _numbers(tmp_path) == [0, 1]


def _write_under_a_limit(folder: Path, study_id: int, limit: int) -> None:
    """A write that the kernel cuts short, and that its writer does not survive."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # kills; Python ignores it
    open_storage(folder, uri="").create_new_trial(study_id)


def test_a_writer_that_dies_in_the_middle_of_a_record_harms_nobody(tmp_path: Path) -> None:
    study_id = _new_study(open_storage(tmp_path, uri=""), trials=1)
    before = _log(tmp_path).read_bytes()
    writer = _FORK.Process(target=_write_under_a_limit, args=(tmp_path, study_id, len(before) + 40))
    writer.start()
    writer.join(20)
    assert writer.exitcode == -signal.SIGXFSZ
    assert len(_log(tmp_path).read_bytes()) == len(before) + 40  # 40 bytes of a record of more than 100
    assert _numbers(tmp_path) == [0]
    storage = JournalStorage(Journal(_log(tmp_path), grace_s=0.3))
    storage.create_new_trial(study_id)
    assert _numbers(tmp_path) == [0, 1]


def test_the_lock_of_a_dead_holder_is_broken_after_the_grace_and_not_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    JournalLock(tmp_path / "j").acquire()  # and its holder is never seen again
    began = time.monotonic()
    JournalLock(tmp_path / "j", grace_s=0.5).acquire()
    assert 0.5 <= time.monotonic() - began < 3
    assert "j.lock was there for 0.5 s, so its holder is dead: removed" in capsys.readouterr().err


def test_a_lock_that_changes_hands_is_never_stale(tmp_path: Path) -> None:
    end = time.monotonic() + 1.0
    broken = threading.Event()

    def hand_on() -> None:
        while time.monotonic() < end:
            lock = JournalLock(tmp_path / "j", grace_s=60)
            lock.acquire()
            time.sleep(0.1)
            if not lock.is_held():
                broken.set()
            lock.release()

    holders = [threading.Thread(target=hand_on) for _ in range(3)]
    for holder in holders:
        holder.start()
    waiting = JournalLock(tmp_path / "j", grace_s=0.4)
    while time.monotonic() < end:
        waiting.acquire()
        waiting.release()
    for holder in holders:
        holder.join()
    assert not broken.is_set()


def test_who_comes_late_to_a_stale_lock_leaves_the_fresh_one_alone(tmp_path: Path) -> None:
    late, first = JournalLock(tmp_path / "j", grace_s=0.2), JournalLock(tmp_path / "j", grace_s=0.2)
    JournalLock(tmp_path / "j").acquire()
    stale = os.stat(tmp_path / "j.lock")  # noqa: PTH116  what both have seen
    first.acquire()  # breaks it, and makes its own
    assert not late._break((stale.st_ino, stale.st_mtime_ns))
    assert first.is_held()
    # Had it already looked, and not yet removed: what it gets hold of is put back.
    assert not late._take_away((stale.st_ino, stale.st_mtime_ns))
    assert first.is_held()
    first.release()
    assert [path.name for path in tmp_path.iterdir()] == ["j.breaking"]


def test_a_slow_holder_does_not_give_back_the_lock_of_its_successor(tmp_path: Path) -> None:
    slow, next_one = JournalLock(tmp_path / "j", grace_s=0.2), JournalLock(tmp_path / "j", grace_s=0.2)
    slow.acquire()
    next_one.acquire()  # broke it
    assert not slow.is_held()
    slow.release()
    assert next_one.is_held()


def test_a_writer_that_lost_its_lock_waits_for_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal.log", grace_s=0.2)
    held = [True, False]
    monkeypatch.setattr(JournalLock, "is_held", lambda lock: held.pop())
    journal.append_logs([{"op_code": 4}])
    assert not held
    assert list(journal.read_logs(0)) == [{"op_code": 4}]


def _wait_and_count(path: Path, gate: Any, inside: Any, most: Any) -> None:
    gate.wait()
    lock = JournalLock(path, grace_s=0.5)
    lock.acquire()
    with inside.get_lock():
        inside.value += 1
        most.value = max(most.value, inside.value)
    time.sleep(0.02)
    with inside.get_lock():
        inside.value -= 1
    lock.release()


def test_of_many_that_wait_for_a_stale_lock_one_at_a_time_gets_in(tmp_path: Path) -> None:
    for round_ in range(3):
        path = tmp_path / f"{round_}"
        JournalLock(path).acquire()
        gate, inside, most = _FORK.Barrier(8), _FORK.Value("i", 0), _FORK.Value("i", 0)
        waiting = [_FORK.Process(target=_wait_and_count, args=(path, gate, inside, most)) for _ in range(8)]
        for one in waiting:
            one.start()
        for one in waiting:
            one.join(30)
        assert [one.exitcode for one in waiting] == [0] * 8
        assert most.value == 1


def _work(folder: Path, results: Any, trials: int, killed: bool) -> None:
    """Ask, report and tell; the one that is killed dies with the lock and half a record written."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = Journal(_log(folder), grace_s=1.0)
    study = optuna.load_study(
        study_name="s", storage=JournalStorage(journal), sampler=optuna.samplers.RandomSampler()
    )
    for turn in range(trials):
        trial = study.ask()
        x = trial.suggest_float("x", 0.0, 1.0)
        for step in range(5):
            trial.report(x, step)
        if killed and turn == trials // 2:
            journal._guard.acquire()
            with _log(folder).open("ab") as file:
                file.write(b'{"op_code":4,"worker_id":"')
            os.kill(os.getpid(), signal.SIGKILL)
        study.tell(trial, x)
        results.put(trial.number)


def _eight_work(folder: Path, work: Callable[..., None]) -> tuple[list[int], list[int | None]]:
    results = _FORK.Queue()
    workers = [_FORK.Process(target=work, args=(folder, results, 6, number == 3)) for number in range(8)]
    for one in workers:
        one.start()
    told = [results.get(timeout=60) for _ in range(7 * 6 + 3)]
    for one in workers:
        one.join(60)
    return told, [one.exitcode for one in workers]


def test_eight_processes_and_a_kill_leave_a_study_without_double_numbers(tmp_path: Path) -> None:
    _new_study(open_storage(tmp_path, uri=""))
    told, codes = _eight_work(tmp_path, _work)
    assert codes == [0, 0, 0, -signal.SIGKILL, 0, 0, 0, 0]
    assert len(set(told)) == 45  # 7 x 6, and 3 of the one that died in its fourth
    study = optuna.load_study(study_name="s", storage=open_storage(tmp_path, uri=""))
    assert [trial.number for trial in study.trials] == list(range(46))
    complete = [trial for trial in study.trials if trial.state is optuna.trial.TrialState.COMPLETE]
    assert {trial.number for trial in complete} == set(told)
    assert all(list(trial.intermediate_values) == [0, 1, 2, 3, 4] for trial in study.trials)


def test_a_journal_of_ours_is_one_of_optunas(tmp_path: Path) -> None:
    _new_study(open_storage(tmp_path, uri=""), trials=2)
    theirs = JournalStorage(JournalFileBackend(str(_log(tmp_path))))
    theirs.create_new_trial(theirs.get_study_id_from_name("s"))
    assert _numbers(tmp_path) == [0, 1, 2]
