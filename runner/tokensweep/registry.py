"""Components: a frozen dataclass is at once schema, constructor and documentation of one piece of a run.

``@component("method/ratio", "holder")`` registers the class as the Hydra option ``method/ratio=holder``;
its fields become overridable keys. :func:`build` turns the frozen JSON of a run back into the object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

T = TypeVar("T")

KIND = "_component_"  # the key that names the class in a resolved config

_registered: dict[str, type[Any]] = {}
_schemas: dict[str, type[Any]] = {}
_defaults: dict[str, dict[str, Any]] = {}  # of a schema, once it was asked for: a plan hashes many runs


def component(group: str, name: str) -> Callable[[type[T]], type[T]]:
    """Register a dataclass as the option ``name`` of the config group ``group``.

    Raises TypeError for a class that is no dataclass and ValueError for a name that is taken.
    """

    def decorate(cls: type[T]) -> type[T]:
        if not dataclasses.is_dataclass(cls):
            raise TypeError(f"{cls.__qualname__} must be a dataclass to be the component {group}={name}")
        kind = f"{group}/{name}"
        if kind in _registered and _registered[kind].__qualname__ != cls.__qualname__:
            raise ValueError(f"{kind} is already {_registered[kind].__qualname__}: choose another name")
        _registered[kind] = cls
        _schemas[kind] = _schema(cls, kind)
        _defaults.pop(kind, None)
        ConfigStore.instance().store(group=group, name=name, node=_schemas[kind], provider=cls.__module__)
        return cls

    return decorate


def components(group: str) -> dict[str, type[Any]]:
    """All registered classes of a config group by option name."""
    return {
        kind.rpartition("/")[2]: cls for kind, cls in _registered.items() if kind.rpartition("/")[0] == group
    }


def build(node: Mapping[str, Any]) -> Any:
    """The component that a frozen config node describes.

    The node is merged into the typed schema first: enums, ints and floats get their declared types back
    after a trip through JSON, and an unknown key fails. A field whose type is a protocol holds a component's
    node of its own, which is built likewise. Raises ValueError for an unknown component.
    """
    kind = node.get(KIND)
    if kind not in _registered:
        raise ValueError(f"no component {kind!r}: known are {sorted(_registered)}")
    merged = OmegaConf.merge(OmegaConf.structured(_schemas[kind]), dict(node))
    fields = OmegaConf.to_container(merged, resolve=True)
    assert isinstance(fields, dict)
    cls = _registered[kind]
    hints = get_type_hints(cls)
    tuples = {f.name for f in dataclasses.fields(cls) if hints[f.name] in _TUPLE_HINTS}
    return cls(**{str(k): _value(v, as_tuple=k in tuples) for k, v in fields.items() if k != KIND})


def _value(value: Any, *, as_tuple: bool) -> Any:
    """A field as the component holds it: a component within it is built, too."""
    if isinstance(value, Mapping) and KIND in value:
        return build(value)
    return tuple(value) if as_tuple else value


def defaults_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """The default value of every field of the component in ``node`` that has one, as JSON values."""
    kind = node[KIND]
    if kind not in _defaults:
        schema = OmegaConf.structured(_schemas[kind])
        plain = OmegaConf.to_container(schema, resolve=False, enum_to_str=True)
        assert isinstance(plain, dict)
        _defaults[kind] = {str(k): v for k, v in plain.items() if v != MISSING}
    return dict(_defaults[kind])


def labels_of(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields of the component in ``node`` that say where something is from and change no number.

    A component names them in a class variable ``LABELS: ClassVar[tuple[str, ...]]``.
    """
    labels: tuple[str, ...] = getattr(_registered[node[KIND]], "LABELS", ())
    return labels


def without_labels(node: Mapping[str, Any]) -> dict[str, Any]:
    """What of the component in ``node`` can change a number."""
    return {key: value for key, value in node.items() if key not in labels_of(node)}


_TUPLE_HINTS = (tuple[str, ...], tuple[int, ...], tuple[float, ...])


def _schema(cls: type[Any], kind: str) -> type[Any]:
    """A mutable twin of ``cls``: OmegaConf makes frozen dataclasses read-only."""
    hints = get_type_hints(cls)
    columns: list[tuple[str, Any, Any]] = [(KIND, str, dataclasses.field(default=kind))]
    for f in dataclasses.fields(cls):
        if f.default_factory is not dataclasses.MISSING:
            value = dataclasses.field(default_factory=f.default_factory)
        elif f.default is not dataclasses.MISSING:
            value = dataclasses.field(default_factory=partial(_mutable, f.default))
        else:
            value = dataclasses.field(default=MISSING)
        columns.append((f.name, _list_hint(hints[f.name]), value))
    return dataclasses.make_dataclass(cls.__name__, columns)


def _list_hint(hint: Any) -> Any:
    """OmegaConf has lists where a frozen component has tuples, and a node where it has another component."""
    if getattr(hint, "_is_protocol", False):
        return Any
    return list[hint.__args__[0]] if hint in _TUPLE_HINTS else hint


def _mutable(default: Any) -> Any:
    """A default as OmegaConf holds it."""
    return list(default) if isinstance(default, tuple) else default
