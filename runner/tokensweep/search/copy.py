"""The plain copy of a study that reports, MLflow and ``status`` read: they need no Optuna and no database."""

from __future__ import annotations

from pathlib import Path

from tokensweep.paths import storage_uri
from tokensweep.redact import redact
from tokensweep.search.element import Planned
from tokensweep.search.spec import search_folder


def copy_study(store: Path, name: str) -> str:
    """Write ``trials.json`` of a search again; gives back why that was not possible, or nothing."""
    from tokensweep.search.study import Study

    folder = search_folder(store, name)
    planned = Planned.read(folder)
    try:
        Study(planned.search, folder, steps=planned.config["steps"], uri=storage_uri()).export()
    except (ValueError, OSError) as error:
        return (
            f"the study of {name} cannot be read, so its trials are shown as they were: {redact(str(error))}"
        )
    return ""
