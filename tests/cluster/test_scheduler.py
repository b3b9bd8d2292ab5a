"""What SLURM's commands print, recorded, and what happens when they fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tokensweep.cluster.jobstate import (
    JobState,
    duration_s,
    expand,
    merge,
    read_accounting,
    read_queue,
    state_of,
)
from tokensweep.cluster.scheduler import Scheduler, SlurmError

# 22.05.8: ArrayJobID ArrayTaskID Name State Reason NodeList exit_code RestartCnt Submit Start End Used Left
_PREEMPTED_WAITS = "9|0|sweep|PENDING|BeginTime||0|1|1795568902|1795568908|N/A|0:00|30:00|\n"
_RUNS = "9|3|sweep|RUNNING|None|gpu[1-2]|0|0|1795568897|1795568902|1795570702|0:11|29:49|\n"
_FAILED = "13|N/A|sweep|FAILED|NonZeroExitCode|gpu1|768|0|1795569124|1795569124|1795569124|0:00|30:00|\n"
_COMPLETING = "18|N/A|sweep|COMPLETING|None|gpu1|0|1|1795569413|1795569410|1795569413|0:03|UNLIMITED|\n"
# JobID JobName State ExitCode NodeList Submit Start End ElapsedRaw
_WAS_PREEMPTED = "9_0|sweep|PREEMPTED|0:0|gpu[1-2]|1795568897|1795568898|1795568902|4\n"
_STOPPED = "9_3|sweep|CANCELLED by 1000|0:15|gpu[1-2]|1795568897|1795568902|1795568919|17\n"


def only(states: dict[str, JobState]) -> JobState:
    (state,) = states.values()
    return state


def test_who_cancelled_a_job_is_no_part_of_its_state() -> None:
    state = only(read_accounting(_STOPPED, names=["sweep"]))
    assert (state.key, state.task, state.state, state.exit_code, state.signal) == (
        "9_3",
        3,
        "CANCELLED",
        0,
        15,
    )
    assert (state.alive, state.start, state.end, state.elapsed_s) == (False, 1795568902, 1795568919, 17)


def test_a_wait_status_is_an_exit_code_or_a_signal() -> None:
    failed = only(read_queue(_FAILED, names=["sweep"]))
    assert (failed.key, failed.task, failed.state, failed.exit_code, failed.signal) == (
        "13",
        None,
        "FAILED",
        3,  # 768 = 3 * 256
        None,
    )
    killed = only(read_queue(_FAILED.replace("|768|", "|9|"), names=["sweep"]))
    assert (killed.exit_code, killed.signal) == (0, 9)
    spelled = only(read_queue(_FAILED.replace("|768|", "|2:9|"), names=["sweep"]))
    assert (spelled.exit_code, spelled.signal) == (2, 9)


def test_a_completing_job_lives_and_has_no_exit_code_yet() -> None:
    state = only(read_queue(_COMPLETING, names=["sweep"]))
    assert (state.alive, state.exit_code, state.end, state.time_left_s) == (True, None, None, None)


@pytest.mark.parametrize(
    "word", ["CONFIGURING", "SUSPENDED", "STAGE_OUT", "REQUEUE_HOLD", "SPECIAL_EXIT", "A_WORD_OF_TOMORROW"]
)
def test_a_state_that_is_not_known_to_end_a_job_does_not(word: str) -> None:
    assert only(read_queue(_RUNS.replace("RUNNING", word), names=["sweep"])).alive


def test_jobs_of_other_names_are_left_out() -> None:
    assert read_queue(_RUNS, names=["swee", "sweep2"]) == {}
    assert read_accounting(_STOPPED, names=["swee"]) == {}


def test_one_row_for_tasks_that_wait_gives_way_to_rows_of_their_own() -> None:
    together = "9_[0,2-3%2]|sweep|PENDING|0:0|None assigned|1795568897|Unknown|Unknown|0\n"
    states = read_accounting(_WAS_PREEMPTED + together + _STOPPED, names=["sweep"])
    assert {key: state.state for key, state in states.items()} == {
        "9_0": "PREEMPTED",
        "9_2": "PENDING",
        "9_3": "CANCELLED",
    }


def test_attempts_are_told_in_the_order_of_their_submission() -> None:
    second = "9_0|sweep|NODE_FAIL|1:0|gpu1|1795568902|1795568910|1795568950|40\n"
    third = "9_0|sweep|COMPLETED|0:0|gpu2|1795568950|1795569000|1795569100|100\n"
    state = only(read_accounting(third + _WAS_PREEMPTED + second, names=["sweep"]))
    assert (state.state, state.restarts, state.earlier) == ("COMPLETED", 2, ("PREEMPTED", "NODE_FAIL"))


def test_the_queue_wins_over_the_accounting() -> None:
    queue = read_queue(_PREEMPTED_WAITS + _RUNS, names=["sweep"])
    accounting = read_accounting(_WAS_PREEMPTED + _STOPPED, names=["sweep"])
    merged = merge(queue, accounting)
    waits = merged["9_0"]
    assert (waits.state, waits.alive, waits.restarts, waits.earlier) == ("PENDING", True, 1, ("PREEMPTED",))
    assert (merged["9_3"].state, merged["9_3"].alive) == ("RUNNING", True)


def test_the_last_end_is_not_taken_for_an_earlier_one() -> None:
    # The accounting lost the first attempt; its only row is the one that the queue tells of.
    ended = "9|0|sweep|TIMEOUT|TimeLimit|gpu1|0|1|1795568902|1795568910|1795568950|0:40|0:00|\n"
    row = "9_0|sweep|TIMEOUT|0:0|gpu1|1795568902|1795568910|1795568950|40\n"
    state = merge(read_queue(ended, names=["sweep"]), read_accounting(row, names=["sweep"]))["9_0"]
    assert (state.restarts, state.earlier) == (1, ())


@pytest.mark.parametrize("word", ["RUNNING", "PENDING", "REQUEUED"])
def test_what_lives_for_the_accounting_alone_is_not_known(word: str) -> None:
    rows = f"12|sweep|{word}|0:0|gpu1|1795568897|1795568898|Unknown|4\n{_STOPPED}"
    assert list(merge({}, read_accounting(rows, names=["sweep"]))) == ["9_3"]


def test_the_whole_job_speaks_for_tasks_that_never_had_a_row() -> None:
    gone = "17|sweep|CANCELLED by 0|0:0|None assigned|1795569313|1795569316|1795569316|0\n"
    states = merge({}, read_accounting(gone + _STOPPED, names=["sweep"]))
    whole = state_of(states, job_id="17", task=2)
    assert whole is not None
    assert (whole.state, whole.start == whole.end) == ("CANCELLED", True)
    assert state_of(states, job_id="9", task=3) == states["9_3"]
    assert state_of(states, job_id="9", task=2) is None
    assert state_of(states, job_id="9", task=None) is None


def test_a_living_job_does_not_speak_for_its_tasks() -> None:
    states = read_queue(_COMPLETING, names=["sweep"])
    assert state_of(states, job_id="18", task=None) == states["18"]
    assert state_of(states, job_id="18", task=0) is None


def test_a_line_that_is_not_understood_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have the 13 fields ArrayJobID.*got 'slurm is busy'"):
        read_queue(_RUNS + "slurm is busy\n", names=["sweep"])
    with pytest.raises(ValueError, match=r"JobID must look like 12.*got '9\+0'"):
        read_accounting(_STOPPED.replace("9_3", "9+0"), names=["sweep"])


def test_indices_are_written_out() -> None:
    assert list(expand("4")) == [4]
    assert list(expand("0-6:2,9,11-12")) == [0, 2, 4, 6, 9, 11, 12]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:07", 7),
        ("29:57", 1797),
        ("3:00:00", 10800),
        ("1-12", 129600),  # a day and twelve hours
        ("7-00:00:01", 604801),
        ("90", 5400),  # minutes
        ("UNLIMITED", None),
        ("infinite", None),
        ("INVALID", None),
        ("NOT_SET", None),
        ("", None),
    ],
)
def test_durations_are_read_as_slurm_writes_them(text: str, seconds: int | None) -> None:
    assert duration_s(text) == seconds


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that alone is on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_without_slurm_the_error_says_where_it_is_found(programs: Path) -> None:
    with pytest.raises(SlurmError, match=r"sacct is not installed here.*login nodes"):
        Scheduler().jobs(["sweep"])


def test_a_silent_command_is_given_up(programs: Path) -> None:
    program(programs, "sacct", "exec /bin/sleep 60")
    with pytest.raises(SlurmError, match=r"no answer within 0.2 s from sacct .*SLURM_CONF"):
        Scheduler(timeout_s=0.2).jobs(["sweep"])


def test_a_complaint_is_passed_on_with_its_command(programs: Path) -> None:
    program(programs, "sacct", "exit 0")
    complaint = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    program(programs, "squeue", f"echo '{complaint}' >&2; exit 1")
    with pytest.raises(SlurmError, match=r"squeue --me .*failed with 1: slurm_load_jobs error: Unable to"):
        Scheduler().jobs(["sweep"])


def test_an_answer_that_is_not_understood_is_an_error_of_slurm(programs: Path) -> None:
    program(programs, "sacct", "echo CLUSTER: other")
    program(programs, "squeue", "exit 0")
    with pytest.raises(SlurmError, match=r"printed what is not understood.*CLUSTER: other"):
        Scheduler().jobs(["sweep"])


def test_no_name_asks_nothing(programs: Path) -> None:
    assert Scheduler().jobs([]) == {}


def test_thousands_of_names_fit_command_lines(programs: Path) -> None:
    names = [f"{'x' * 90}-{i:04d}" for i in range(2000)]  # 190,000 characters; an argument takes 131,072
    program(programs, "sacct", f"echo call >> {programs}/calls")
    program(programs, "squeue", f"echo call >> {programs}/calls")
    assert Scheduler().jobs(names) == {}
    assert (programs / "calls").read_text().split() == ["call"] * 4  # two of each


def test_a_users_own_columns_and_filters_change_nothing(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQUEUE_PARTITION", "SACCT_FORMAT", "SINFO_FORMAT", "SLURM_JOB_ID", "SLURM_CONF"):
        monkeypatch.setenv(name, "mine")
    program(programs, "sacct", f"/usr/bin/env > {programs}/seen")
    program(programs, "squeue", "exit 0")
    Scheduler().jobs(["sweep"])
    seen = (programs / "seen").read_text().splitlines()
    assert [line for line in seen if line.endswith("=mine")] == ["SLURM_CONF=mine"]
    assert {"SLURM_TIME_FORMAT=%s", "TZ=UTC0", "SLURM_BITSTR_LEN=0"} <= set(seen)
    assert os.environ["SQUEUE_PARTITION"] == "mine"


def fake_cluster(folder: Path, *, config: str, assoc: str, qos: str = "normal|") -> None:
    """A cluster of recorded answers with five jobs in the queue."""
    program(folder, "squeue", "printf '1_1\\n1_2\\n1_3\\n2\\n3\\n'")
    program(folder, "scontrol", f"echo '{config}'")
    program(
        folder,
        "sacctmgr",
        f'case "$4" in assoc) echo "{assoc}";; qos) echo "{qos}";; user) echo dev;; esac',
    )


_CONFIG = """Configuration data as of 2026-11-25T01:07:00
AccountingStorageEnforce = associations,limits
ClusterName             = big
MaxArraySize            = 1001
MaxJobCount             = 50000
SchedulerParameters     = bf_interval=2,max_array_tasks=100,sched_interval=2"""


def test_the_tightest_limit_of_association_and_qos_counts(programs: Path) -> None:
    assoc = "other||3||normal\ndev||500|long|long,normal\ndev|debug|2||normal"
    fake_cluster(programs, config=_CONFIG, assoc=assoc, qos="normal|\nlong|200\nshort|20")
    limits = Scheduler().limits()
    assert (limits.max_array_size, limits.max_array_tasks, limits.max_jobs) == (1001, 100, 50000)
    assert (limits.max_submit, limits.queued, limits.room) == (200, 5, 195)
    assert Scheduler().limits(qos="normal").max_submit == 500
    assert Scheduler().limits(qos="short").max_submit == 20
    assert Scheduler().limits(account="other").max_submit == 3
    assert Scheduler().limits(partition="debug").max_submit == 2


def test_without_accounting_nobody_limits_a_user(programs: Path) -> None:
    config = _CONFIG.replace("associations,limits", "none")
    fake_cluster(programs, config=config, assoc="dev||3||normal")
    limits = Scheduler().limits()
    assert (limits.max_submit, limits.room) == (None, 49995)


def test_a_full_queue_has_no_room(programs: Path) -> None:
    fake_cluster(programs, config=_CONFIG, assoc="dev||4||normal")
    assert Scheduler().limits().room == 0


def test_a_configuration_without_limits_is_refused(programs: Path) -> None:
    fake_cluster(programs, config="Configuration data", assoc="")
    with pytest.raises(SlurmError, match="scontrol show config must name ClusterName"):
        Scheduler().limits()


def test_partitions_add_up_the_nodes_of_all_kinds(programs: Path) -> None:
    lines = (
        "long*|up|2-00:00:00|gpu:a100:4(S:0-1)|idle|3",
        "long*|up|2-00:00:00|gpu:h100:8|mixed|2",
        "long*|up|2-00:00:00|gpu:h100:8|idle|1",
        "debug|inact|infinite|(null)|drained*|1",
    )
    program(programs, "sinfo", "\n".join(f"echo '{line}'" for line in lines))
    found = Scheduler().partitions()
    assert list(found) == ["long", "debug"]
    assert (found["long"].is_default, found["long"].time_limit_s) == (True, 172800)
    assert found["long"].gres == ("gpu:a100:4(S:0-1)", "gpu:h100:8")
    assert found["long"].nodes == {"idle": 4, "mixed": 2}
    assert (found["debug"].is_up, found["debug"].time_limit_s, found["debug"].gres) == (False, None, ())
