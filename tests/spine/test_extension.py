"""A method can live outside the repository; the example of CONTRIBUTING.md is one and is run here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def _blocks(language: str) -> list[str]:
    """The code blocks of the guide in that language, without their indentation."""
    found = re.findall(
        rf"^   ```{language}\n(.*?)^   ```$", _GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE
    )
    return ["\n".join(line.removeprefix("   ") for line in block.splitlines()) + "\n" for block in found]


@pytest.fixture
def extension(tmp_path: Path) -> Path:
    """A folder with the method, preset and sweep of the guide."""
    files = {
        "methods/long_tail.py": _blocks("python")[0],
        "conf/method/long_tail.yaml": _blocks("yaml")[0],
        "sweeps/long_tail.yaml": _blocks("yaml")[1],
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def _python(code: str, extension: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TOKENSWEEP_PATH": str(extension)}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_method_of_the_guide_composes_and_keeps_every_law(extension: Path) -> None:
    done = _python(
        "from tokensweep.compose import freeze_run, register_components\n"
        "from tokensweep.loss.laws import LAWS, example_batch\n"
        "from tokensweep.loss.objective import prepare\n"
        "from tokensweep.loss.method import build_method\n"
        "register_components()\n"
        "frozen = freeze_run(['method=long_tail', 'method.token_weights.tail.below=0.3'])\n"
        "method = build_method(frozen['method'])\n"
        "assert method.token_weights['tail'].below == 0.3\n"
        "kept = prepare(method, example_batch()).weights\n"
        "assert 0 < kept.sum() < kept.numel(), 'the example must act'\n"
        "for law in LAWS.values():\n"
        "    law(method)\n"
        "print(len(LAWS), 'laws kept')",
        extension,
    )
    assert "laws kept" in done.stdout, done.stderr


def test_the_sweep_of_the_guide_plans(extension: Path, tmp_path: Path) -> None:
    done = _python(
        "import sys\n"
        f"sys.argv = ['tokensweep', 'plan', 'long_tail', 'store={tmp_path / 'store'}']\n"
        "from tokensweep.cli import main\n"
        "main()",
        extension,
    )
    assert "long_tail-tiny: 6 runs, 6 to do" in done.stdout, done.stderr


def test_a_path_entry_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    done = _python("from tokensweep.paths import extension_dirs; extension_dirs()", tmp_path / "missing")
    assert "TOKENSWEEP_PATH must list folders" in done.stderr
