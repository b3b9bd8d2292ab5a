"""Hydra's composition: of one list of overrides, and of many lists that differ in values only."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tokensweep.paths import conf_dir

_KEPT = 256  # composed configs, 0.1 MB each; further ones are composed each time


def parse(overrides: Sequence[str]) -> list[Override]:
    """Hydra's own parse of override strings."""
    return list(OverridesParser.create().parse_overrides(list(overrides)))


def compose_config(overrides: Sequence[str], *, name: str = "train") -> DictConfig:
    """The composed, unresolved config; inside a Hydra application its own search path is used."""
    with _hydra():
        return compose(name, list(overrides))


@contextmanager
def _hydra() -> Iterator[ConfigLoader]:
    """Hydra's loader, of the application where there is one."""
    if GlobalHydra.instance().is_initialized():
        yield GlobalHydra.instance().config_loader()
        return
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


class Composer:
    """Composes the runs of a sweep, which takes Hydra 0.1 s each, by composing once what they share.

    Which files a config is made of is decided by the groups that are selected. Runs that select the same
    ones differ in values, which Hydra would assign last: these are assigned to a copy instead.

    Good for as long as configuration files, the search path and registered components stay as they are.
    """

    def __init__(self) -> None:
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._groups: dict[str, bool] = {}

    def compose(self, overrides: Sequence[Override]) -> DictConfig:
        """What :func:`compose_config` gives for these overrides of ``train``, and its errors."""
        structure, values = self._split(overrides)
        config = copy.deepcopy(self._compose_once(structure))
        try:
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return compose_config(_lines(overrides))  # raises, with what Hydra says of it
        return config

    def _compose_once(self, structure: Sequence[Override]) -> DictConfig:
        lines = _lines(structure)
        if lines in self._composed:
            return self._composed[lines]
        config = compose_config(lines)
        if len(self._composed) < _KEPT:
            self._composed[lines] = config
        return config

    def _split(self, overrides: Sequence[Override]) -> tuple[list[Override], list[Override]]:
        """What Hydra has to compose, and the values that can be assigned afterwards.

        Hydra selects groups first, wherever they stand, and then applies the rest in order. So a value can
        wait until after the groups, but not until after an addition or a removal that follows it.
        """
        if any(override.is_hydra_override() for override in overrides):
            return list(overrides), []  # among them is the search path, which decides what a group is
        selects = [self._selects(override) for override in overrides]
        ordered = [i for i, o in enumerate(overrides) if not selects[i] and not _assigns(o)]
        start = ordered[-1] + 1 if ordered else 0
        structure = [o for i, o in enumerate(overrides) if i < start or selects[i]]
        return structure, [o for i, o in enumerate(overrides) if i >= start and not selects[i]]

    def _selects(self, override: Override) -> bool:
        """Whether it acts on the defaults list: it names a group and does not assign to its node."""
        return self._is_group(override.key_or_group) and not isinstance(override.value(), dict)

    def _is_group(self, key: str) -> bool:
        if key not in self._groups:
            with _hydra() as loader:
                self._groups[key] = any(source.is_group(key) for source in loader.get_sources())
        return self._groups[key]


def _assigns(override: Override) -> bool:
    """Whether it is ``key=value`` and no more: no addition, removal, package or choice of several values."""
    plain = override.type is OverrideType.CHANGE and override.package is None
    return plain and override.value_type is ValueType.ELEMENT


def _lines(overrides: Sequence[Override]) -> tuple[str, ...]:
    """The overrides as they were given."""
    return tuple(str(override.input_line) for override in overrides)
