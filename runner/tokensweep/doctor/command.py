"""``tokensweep doctor``: asks everything at once and prints what was found."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tokensweep.cluster.site import load_site
from tokensweep.doctor.cluster import cluster_checks
from tokensweep.doctor.disk import store_checks
from tokensweep.doctor.engines import deep_checks, engine_checks
from tokensweep.doctor.finding import Finding, Level, answer
from tokensweep.doctor.machine import machine_checks
from tokensweep.options import with_store

_STYLES = {Level.ok: "green", Level.warn: "yellow", Level.fail: "bold red"}


def doctor_command(arguments: Sequence[str]) -> None:
    """Check what runs need; leaves with 1 when something does not work."""
    parser = argparse.ArgumentParser(
        prog="tokensweep doctor",
        description="Check Python, packages, torch, vLLM, the store, MLflow and SLURM; change nothing. With "
        "site=NAME also whether the cluster would take the site's jobs.",
    )
    parser.add_argument(
        "--deep",
        action="store_true",
        help="also run head, packing and rollout engines on this machine's device and compare their numbers, "
        "before and after a weight update and a crash: minutes, for a machine that nobody has used before",
    )
    parser.add_argument("--json", action="store_true", help="for programs: topic, level, found, advice")
    own = [text for text in arguments if text.startswith("site=")]
    options, store, uri = with_store(parser, [text for text in arguments if text not in own])
    site = own[-1].removeprefix("site=") if own else None
    findings = diagnose(store, uri=uri, site=site or None)
    if options.deep:
        findings += _deeply(findings)
    if options.json:
        print(json.dumps([{"topic": topic, **asdict(each)} for topic, each in findings], indent=1))
    else:
        show(findings, Console())
    if any(each.level is Level.fail for _, each in findings):
        raise SystemExit(1)


def diagnose(store: Path, *, uri: str, site: str | None = None) -> list[tuple[str, Finding]]:
    """Topics and findings in a fixed order. The checks run side by side: some wait for a server."""
    checks = [
        *machine_checks(),
        *engine_checks(),
        *store_checks(store, uri=uri, group=_group(site)),
        *cluster_checks(site),
    ]
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        findings = list(pool.map(answer, checks))
    bad = {check.topic for check, each in zip(checks, findings, strict=True) if each.level is not Level.ok}
    return [
        (check.topic, each)
        for check, each in zip(checks, findings, strict=True)
        if check.needs not in bad or each.level is Level.ok
    ]


def _deeply(before: Sequence[tuple[str, Finding]]) -> list[tuple[str, Finding]]:
    """Findings of the deep checks, one after the other as each takes the whole machine."""
    bad = {topic for topic, each in before if each.level is not Level.ok}
    from transformers.utils import logging

    logging.disable_progress_bar()
    with Console(stderr=True).status("comparing engines (minutes)"):
        return [(check.topic, answer(check)) for check in deep_checks() if check.needs not in bad]


def show(findings: Sequence[tuple[str, Finding]], console: Console) -> None:
    """A line per finding, and one with the advice below it unless all is well."""
    width = max(len(topic) for topic, _ in findings)
    for topic, each in findings:
        line = Text.assemble((f"{each.level:4}", _STYLES[each.level]), f"  {topic:{width}}  {each.found}")
        console.print(line, soft_wrap=True)
        if each.advice:
            console.print(Text(f"{'':{width + 8}}{each.advice}", style="dim"), soft_wrap=True)


def _group(site: str | None) -> str | None:
    """The group that a site shares the store with; none if it can't be read, which a check of it says."""
    try:
        return load_site(site).group if site else None
    except ValueError:
        return None
