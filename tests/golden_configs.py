"""The resolved config of every method preset, committed so that a change of configuration is a readable diff.

``make golden`` rewrites the files; a test compares them.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokensweep.compose import freeze_run, register_components
from tokensweep.paths import conf_dir

FOLDER = Path(__file__).parent / "golden"


def presets() -> list[str]:
    """Names of all shipped method presets."""
    return sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))


def resolved(preset: str) -> str:
    """The frozen method of a preset at the paper's own settings, as text."""
    register_components()
    return json.dumps(freeze_run([f"method={preset}", "~scale"])["method"], indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Rewrite every file and drop those of presets that are gone."""
    for path in FOLDER.glob("*.json"):
        path.unlink()
    FOLDER.mkdir(exist_ok=True)
    for preset in presets():
        (FOLDER / f"{preset}.json").write_text(resolved(preset))


if __name__ == "__main__":
    main()
