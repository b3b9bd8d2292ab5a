"""Checks of SLURM, and of whether a site says what is true of its cluster."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from tokensweep.cluster.sbatch import job_options
from tokensweep.cluster.scheduler import Partition, Scheduler
from tokensweep.cluster.site import STAGES, Request, Site, load_site, site_request
from tokensweep.doctor.finding import Check, Finding, Level, answer, fail, ok, warn

_COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr", "srun")
_OF_SUBMITIT = ("signal_delay_s", "array_parallelism", "stderr_to_stdout", "srun_args", "wckey")
_PATIENCE_S = 4.0
_HOUR_S = 3600


def cluster_checks(site_name: str | None) -> list[Check]:
    """SLURM's commands; if they are there, its servers and this user's limits; if a site is named, the site.

    Without a site nothing of this is a failure: sweeps may be meant for this machine.
    """
    found = commands()
    scheduler = Scheduler(timeout_s=_PATIENCE_S)
    checks = [Check("SLURM", lambda: found)]
    reachable = found.level is Level.ok and shutil.which("sinfo") is not None
    if reachable:
        checks += [
            Check("controller", lambda: controller(scheduler.partitions().values(), scheduler.version())),
            Check("accounting", partial(accounting, scheduler), needs="controller"),
            Check("limits", partial(limits, scheduler), needs="controller"),
        ]
    if site_name is None:
        return [replace(check, ask=partial(_mild, check)) for check in checks]
    if not shutil.which("sinfo"):
        absent = fail(found.found, "log in to a node of the cluster, or `module load slurm`")
        checks[0] = Check("SLURM", lambda: absent)
    return checks + _site_checks(site_name, scheduler, reachable=reachable)


def _mild(check: Check) -> Finding:
    """A finding of which a failure stops only sweeps that go to the cluster."""
    found = answer(check)
    if found.level is not Level.fail:
        return found
    advice = f"{found.advice}; " if found.advice else ""
    return warn(found.found, f"{advice}matters for hydra/launcher=slurm only")


def _site_checks(name: str, scheduler: Scheduler, *, reachable: bool) -> list[Check]:
    try:
        site = load_site(name)
    except ValueError as error:
        wrong = fail(str(error), "")
        return [Check("site", lambda: wrong)]
    checks = [
        Check("site", lambda: ok(f"{site.name} is understood")),
        Check("nodes' Python", partial(python, site)),
    ]
    if site.group:
        checks.append(Check("group", partial(group, site.group)))
    if reachable:
        checks.append(Check("account", partial(account, site, scheduler), needs="controller"))
        requests = {stage: site_request(site, stage) for stage in STAGES}
        checks += [
            Check(f"{stage} jobs", partial(request, site, wanted, scheduler), needs="controller")
            for stage, wanted in requests.items()
        ]
    return checks


def commands() -> Finding:
    """Whether SLURM's commands are on the PATH, and whether SLURM_CONF leads anywhere."""
    missing = [name for name in _COMMANDS if shutil.which(name) is None]
    if len(missing) == len(_COMMANDS):
        return ok("its commands are not on this machine: sweeps run here, with hydra/launcher=local")
    if missing:
        return fail(f"missing: {', '.join(missing)}", "install the rest of SLURM's client commands")
    conf = os.environ.get("SLURM_CONF")
    if conf and not Path(conf).is_file():
        return fail(f"SLURM_CONF={conf} is no file", "correct it, or unset it to use the machine's own")
    return ok(f"{shutil.which('sbatch')}" + (f" with {conf}" if conf else ""))


def controller(known: Iterable[Partition], version: str) -> Finding:
    """Whether SLURM's controller answers, and with which partitions."""
    known = list(known)
    told = ", ".join(
        f"{each.name}{'*' if each.is_default else ''} ({sum(each.nodes.values())} nodes, "
        f"{_hours(each.time_limit_s)}{'' if each.is_up else ', down'})"
        for each in known
    )
    if not any(each.is_up for each in known):
        return fail(f"no partition is up: {told or 'there is none'}", "ask who runs the cluster")
    return ok(f"SLURM {version} answers: {told}")


def accounting(scheduler: Scheduler) -> Finding:
    """Whether sacct answers, without which ends of jobs are forgotten after minutes."""
    scheduler.jobs(["tokensweep-doctor"])
    return ok("sacct and squeue answer")


def limits(scheduler: Scheduler) -> Finding:
    """How much the user may submit."""
    known = scheduler.limits()
    most = "any number of" if known.max_submit is None else f"at most {known.max_submit}"
    told = (
        f"arrays of up to {known.max_array_tasks} tasks, {most} tasks in the queue, {known.queued} there now"
    )
    if known.room == 0:
        return warn(f"{told}: no room", "wait until jobs have ended, or cancel some")
    return ok(told)


def python(site: Site) -> Finding:
    """Whether the interpreter of the site is one, as far as can be seen from here."""
    if site.python is None:
        return ok("the one of this command, which the nodes must see under the same path")
    if site.python.startswith("/") and not Path(site.python).is_file():
        return warn(f"python: {site.python} is no file here", "correct it, unless only the nodes have it")
    return ok(f"{site.python}, not tried from here")


def group(name: str) -> Finding:
    """Whether the user belongs to the Unix group that may read the store."""
    try:
        entry = grp.getgrnam(name)
    except KeyError:
        return fail(f"there is no group {name}", "correct 'group' of the site")
    if entry.gr_gid not in {*os.getgroups(), os.getegid()}:
        return fail(f"you are not in the group {name}", "ask for it, or change 'group' of the site")
    return ok(f"you are in {name}")


def account(site: Site, scheduler: Scheduler) -> Finding:
    """Whether the user may use the site's account and QoS."""
    known = scheduler.accounts()
    user = pwd.getpwuid(os.geteuid()).pw_name
    if not known:
        return warn(
            f"the accounting knows no account of {user}", "ask who runs the cluster, if jobs are refused"
        )
    if site.account is not None and site.account not in known:
        return fail(
            f"{user} has no account {site.account}, but {', '.join(known)}", "correct 'account' of the site"
        )
    names = [site.account] if site.account else list(known)
    allowed = {qos for name in names for qos in known[name]}
    for stage in STAGES:
        qos = site_request(site, stage).qos
        if qos is not None and qos not in allowed:
            return fail(
                f"{', '.join(names)} may not use the QoS {qos} ({stage}), but {', '.join(sorted(allowed))}",
                "correct 'qos' of the site",
            )
    return ok(f"account {site.account or 'by default'}, QoS {site.qos or 'by default'}")


def request(site: Site, wanted: Request, scheduler: Scheduler) -> Finding:
    """Whether the cluster would take a job as the site asks for it, and could ever start it."""
    known = scheduler.partitions()
    names = (
        wanted.partition.split(",") if wanted.partition else [p.name for p in known.values() if p.is_default]
    )
    absent = [name for name in names if name not in known]
    if absent or not names:
        there = ", ".join(known)
        if not names:
            return fail("no partition is the default", f"say partition: one of {there}")
        return fail(f"there is no partition {', '.join(absent)}", f"correct 'partition' of the site: {there}")
    up = [known[name] for name in names if known[name].is_up]
    if not up:
        return fail(f"the partition {', '.join(names)} is down", "wait, or name another one in the site")
    longest = [each.time_limit_s for each in up]
    asked_s = wanted.minutes * 60
    if all(limit is not None and limit < asked_s for limit in longest):
        most = max(limit for limit in longest if limit is not None)
        return fail(
            f"{_hours(asked_s)} are asked for, {', '.join(names)} allows {_hours(most)}: none would start",
            f"set hours of the site to at most {most / _HOUR_S:g}",
        )
    refusal = scheduler.refusal(_options(site, wanted))
    if refusal:
        return fail(f"SLURM would refuse the job: {refusal}", f"the site asks for {_asked(wanted)}")
    return ok(f"{', '.join(names)} takes {_asked(wanted)}")


def _options(site: Site, wanted: Request) -> list[str]:
    """sbatch's options for a request, without those that only submitit knows and the dependency on others."""
    options = job_options(site, wanted, name="tokensweep-doctor", throttle=1, dependency=None)
    given = {**options.pop("additional_parameters"), **options}
    flags = {key.replace("_", "-"): value for key, value in given.items() if key not in _OF_SUBMITIT}
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in flags.items()]


def _asked(wanted: Request) -> str:
    memory = "" if wanted.mem_gb is None else f", {wanted.mem_gb:g} GB"
    return f"{wanted.gpus} GPUs, {wanted.cpus} cores{memory} for {_hours(wanted.minutes * 60)}"


def _hours(seconds: int | None) -> str:
    return "no time limit" if seconds is None else f"{seconds / _HOUR_S:.3g} h"
