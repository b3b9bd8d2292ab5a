"""Checks of Python, of the packages and of torch."""

from __future__ import annotations

import os
import platform
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import tokensweep
from tokensweep.doctor.finding import Check, Finding, fail, ok, warn

_SHOWN = 4
_NVIDIA = Path("/proc/driver/nvidia/version")  # there as soon as the driver is loaded


def machine_checks() -> list[Check]:
    """Python, packages, torch's build, devices and threads."""
    return [
        Check("Python", python_version),
        Check("packages", package_versions),
        Check("torch", torch_build),
        Check("threads", threads),
    ]


def demands() -> tuple[str, list[str]]:
    """The versions of Python and the requirements that tokensweep has, from pyproject.toml in a checkout."""
    pyproject = Path(tokensweep.__file__).parents[2] / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        return project["requires-python"], project["dependencies"]
    own = metadata("tokensweep")
    return own["Requires-Python"], own.get_all("Requires-Dist") or []


def python_version() -> Finding:
    """Whether this Python is one that tokensweep supports."""
    wanted, _ = demands()
    here = platform.python_version()
    if SpecifierSet(wanted).contains(here, prereleases=True):
        return ok(f"{here}, tokensweep {tokensweep.__version__}")
    return fail(f"Python {here}, but {wanted} is needed", f"make a virtual environment with Python {wanted}")


def package_versions() -> Finding:
    """Whether all packages are there, in versions that tokensweep was made for."""
    return judge_packages(demands()[1])


def judge_packages(requirements: list[str]) -> Finding:
    """What is missing or of another version. Requirements of extras don't count."""
    needed = [Requirement(text) for text in requirements]
    needed = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = []
    for each in needed:
        try:
            here = version(each.name)
        except PackageNotFoundError:
            wrong.append(f"{each.name} is missing")
            continue
        if not each.specifier.contains(here, prereleases=True):
            wrong.append(f"{each.name} {here} is not {each.specifier}")
    if not wrong:
        return ok(f"all {len(needed)} as demanded")
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return fail("; ".join(wrong[:_SHOWN]) + more, "install tokensweep again, with its constraints.txt")


def torch_build() -> Finding:
    """torch's build and the devices that it can use."""
    import torch

    build = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        devices = ", ".join(f"{each.name} {each.total_memory / 2**30:.0f} GiB" for each in found)
        return ok(f"{build} on {devices}")
    if _NVIDIA.exists():
        cuda = torch.version.cuda
        why = f"built for CUDA {cuda}, which the driver may be too old for" if cuda else "a build for CPUs"
        return warn(
            f"{build} is {why}: the GPU of this machine is not used",
            "install a build of torch for the driver's CUDA version (nvidia-smi names it)",
        )
    return ok(f"{build}, no GPU here: device=auto takes the CPU")


def threads() -> Finding:
    """How many cores this process may use, and whether torch wants more of them."""
    import torch

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    wanted = torch.get_num_threads()
    if wanted > cores:
        return warn(
            f"torch uses {wanted} threads on {cores} cores, which slows it down",
            f"set OMP_NUM_THREADS={cores}, or ask for more cores",
        )
    return ok(f"{cores} cores for this process; a run takes compute.threads of them")
