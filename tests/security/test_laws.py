"""What no module of the project does: load pickles, build shell commands, open servers to the world."""

from __future__ import annotations

import ast
import pickle
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from tokensweep.models.characters import VOCABULARY, character_tokenizer
from tokensweep.models.policy import Policy
from tokensweep.orchestrate import ui_command

_REPOSITORY = Path(__file__).parents[2]
_MODULES = [
    *(path for root in ("runner", "analysis", "benchmarks") for path in (_REPOSITORY / root).rglob("*.py")),
    _REPOSITORY / "slurm" / "devcluster",
]
_PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
_SHELLS = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"),
    *("asyncio.create_subprocess_shell", "os.execl", "os.execlp", "os.spawnl", "os.spawnlp"),
}
_PROGRAMS = {"sh", "bash", "zsh", "dash", "/bin/sh", "/bin/bash"}


def offences(source: str) -> list[str]:
    """What a module does of all this, as ``line: what``."""
    tree = ast.parse(source)
    return [f"{node.lineno}: {what}" for node in ast.walk(tree) for what in _offences(node)]  # type: ignore[attr-defined]  # every offender has a line


def _offences(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (f"imports {a.name}" for a in node.names if a.name.partition(".")[0] in _PICKLES)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in _PICKLES:
        yield f"imports {node.module}"
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        given = {keyword.arg or "**": ast.unparse(keyword.value) for keyword in node.keywords}
        yield from _loads_code(name, given)
        yield from _calls_a_shell(name, given, node.args)
    elif isinstance(node, ast.List | ast.Tuple):
        words = [each.value if isinstance(each, ast.Constant) else None for each in node.elts]
        if (words and words[0] in _PROGRAMS) or "--wrap" in words:
            yield "a shell as program"


def _loads_code(name: str, given: Mapping[str, str]) -> Iterator[str]:
    """Calls that may run what a file says."""
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    model = "ModelFor" in name and name.endswith("from_pretrained")
    if model and given.get("use_safetensors") != "True" and "gguf_file" not in given:
        yield "from_pretrained may read a pickle"
    if name.endswith(("_object", "_object_list")) and "dist" in name:
        yield f"{name} exchanges pickles"
    if any(given.get(key, "False") != "False" for key in ("allow_pickle", "trust_remote_code")):
        yield "a file may bring code"
    if name in {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}:
        yield name


def _calls_a_shell(name: str, given: Mapping[str, str], arguments: Sequence[ast.expr]) -> Iterator[str]:
    """Calls whose text a shell takes apart."""
    if name in _SHELLS or given.get("shell", "False") != "False":
        yield "a shell"
        return
    texts = [each for each in arguments[:1] if isinstance(each, ast.Constant | ast.JoinedStr | ast.BinOp)]
    if name.startswith("subprocess.") and texts:
        yield "a command that is one text"


def test_no_module_loads_pickles_or_builds_a_shell_command() -> None:
    found = {
        path.relative_to(_REPOSITORY).as_posix(): bad
        for path in _MODULES
        if (bad := offences(path.read_text()))
    }
    assert len(_MODULES) > 100
    assert found == {}


@pytest.mark.parametrize(
    "bad",
    [
        *("import pickle", "import cloudpickle as c", "from joblib import load", "import os, dill"),
        *("torch.load(path)", "torch.load(path, weights_only=False)", "np.load(p, allow_pickle=True)"),
        *("dist.all_gather_object(a, b)", "torch.distributed.broadcast_object_list(x)"),
        *(
            "AutoModelForCausalLM.from_pretrained(x)",
            "f(x, trust_remote_code=True)",
            "yaml.load(x)",
            "eval(x)",
        ),
        *("os.system('ls')", "os.popen(x)", "subprocess.run('ls')", "subprocess.Popen(f'ls {x}')"),
        *("subprocess.run(x, shell=True)", "subprocess.run('ls ' + x)", "subprocess.run(['bash', '-c', x])"),
        *("subprocess.getoutput(x)", "run(('sh', script))", "subprocess.run(['sbatch', '--wrap', x])"),
    ],
)
def test_the_law_finds(bad: str) -> None:
    assert len(offences(f"x = 1\n{bad}\n")) == 1


@pytest.mark.parametrize(
    "good",
    [
        *(
            "torch.load(path, weights_only=True)",
            "subprocess.run(['ls', x])",
            "model.eval()",
            "yaml.safe_load(x)",
        ),
        *(
            "AutoModelForCausalLM.from_pretrained(x, use_safetensors=True)",
            "subprocess.run(command, shell=False)",
        ),
    ],
)
def test_the_law_allows(good: str) -> None:
    assert offences(good) == []


class _Bomb:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_a_model_folder_with_a_pickle_in_place_of_weights_runs_no_code(tmp_path: Path) -> None:
    folder, trace = tmp_path / "model", tmp_path / "exploded"
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Qwen3Config(
        vocab_size=len(VOCABULARY), num_key_value_heads=1, head_dim=8, eos_token_id=1, **size
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    save_file({"x": torch.zeros(1)}, folder / "decoy.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(trace)))
    with pytest.raises(OSError, match="safetensors"):
        Policy(folder)
    assert not trace.exists()


@pytest.mark.parametrize("uri", ["sqlite:////store/mlflow.db", "postgresql://me:pass-word@host/db"])
def test_the_server_that_people_are_told_to_start_listens_on_this_machine_only(uri: str) -> None:
    command = ui_command(uri, Path("/store"))
    words = shlex.split(command.partition("#")[0])
    assert words[:2] == ["mlflow", "server"]
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert "pass-word" not in command


def test_the_address_of_a_server_is_shown_without_its_password() -> None:
    assert ui_command("http://me:pass-word@host:5000", Path("/store")) == "open http://me:***@host:5000"
