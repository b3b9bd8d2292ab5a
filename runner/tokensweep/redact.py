"""Secrets come from the environment and stay there: out of configs, snapshots, logs, ledgers and MLflow.

A secret is the value of an environment variable whose name says so (``HF_TOKEN``, ``PGPASSWORD``,
``WANDB_API_KEY``, ...), the password in a URL that a variable holds, and the password in any other URL. What
people type or what a library says may contain one: :func:`redact` takes it out of text that is written,
:func:`refuse_secrets` stops a plan that would write it. Values below eight characters are left alone, as they
would be found in innocent text.
"""

from __future__ import annotations

import io
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

_SHORTEST = 8  # characters
_ENDINGS = ("TOKEN", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASSPHRASE", "APIKEY", "SSHPASS", "JWT")
_WORDS = ("CREDENTIAL", "CREDENTIALS")
_LAST_WORDS = ("KEY", "KEYS", "PASS", "PWD", "AUTH", "PAT")  # of several: PWD alone is a folder
_PLACES = ("PATH", "FILE", "DIR", "FOLDER", "HOME", "SOCK", "NAME", "TYPE")  # say where the secret is
_URL_PASSWORD = re.compile(r"""(://[^\s/:@?#"'<>]*:)([^\s/?#"'<>]+)(?=@)""")
_URL_PARAMETER = re.compile(r"([?&](?:password|passwd|token|secret|api_?key)=)[^\s&#\"'<>]+", re.IGNORECASE)


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether the name of an environment variable says that its value is a secret."""
    words = re.split(r"[^A-Z0-9]+", name.upper())
    if words[-1] in _PLACES:
        return False
    said = any(word.endswith(_ENDINGS) or word in _WORDS for word in words)
    return said or (len(words) > 1 and words[-1] in _LAST_WORDS)


def redactor() -> Callable[[str], str]:
    """:func:`redact` for many texts: it reads the environment once."""
    known = _secrets()
    longest_first = sorted(known, key=len, reverse=True)
    values = re.compile("|".join(map(re.escape, longest_first))) if known else None

    def clean(text: str) -> str:
        if values is not None:
            text = values.sub(lambda match: f"***{known[match[0]]}***", text)
        return _without_passwords(text)

    return clean


def secret_in(text: str) -> str | None:
    """The name of an environment variable whose secret value stands in ``text`` as a word; None without."""
    for form, name in _secrets().items():
        if form in text and re.search(rf"(?<!\w){re.escape(form)}(?!\w)", text):
            return name
    return None


def redact(text: str) -> str:
    """``text`` with every secret of the environment as ``***NAME***`` and without passwords in URLs.

    A secret is found as it is, as JSON and Python spell it and as URLs do, but not in another encoding.
    """
    return redactor()(text)


def _secrets() -> dict[str, str]:
    """The secret values of the environment, however they are spelt, each with the name of its variable."""
    found: dict[str, str] = {}
    for name, value in sorted(os.environ.items()):
        texts = [match[2] for match in _URL_PASSWORD.finditer(value)]
        if is_secret_name(name):
            lines = [line.strip() for line in value.splitlines() if not line.startswith("-----")]
            texts += [value.strip(), *lines]
        found.update({form: name for text in texts if len(text) >= _SHORTEST for form in _forms(text)})
    return found


def _forms(value: str) -> set[str]:
    """How a value is spelt in texts that escape characters."""
    return {value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, safe=""), quote(value)}


def _without_passwords(text: str) -> str:
    if "://" not in text:
        return text
    return _URL_PARAMETER.sub(r"\1***", _URL_PASSWORD.sub(r"\1***", text))


def redact_error(error: BaseException) -> None:
    """Redact the messages of an error and of those that led to it, in place: it goes on to logs of others."""
    clean = redactor()
    for each in _chain(error):
        each.args = tuple(clean(part) if isinstance(part, str) else part for part in each.args)
        if isinstance(each, OSError):  # which does not speak through its arguments
            each.strerror = clean(each.strerror) if isinstance(each.strerror, str) else each.strerror
            each.filename = clean(each.filename) if isinstance(each.filename, str) else each.filename
        if notes := getattr(each, "__notes__", None):
            each.__notes__ = [clean(str(note)) for note in notes]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, its causes, and the members of groups, each once."""
    known: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in known:
            continue
        known.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__]
        waiting += each.exceptions if isinstance(each, BaseExceptionGroup) else []


def refuse_secrets(config: Mapping[str, Any]) -> None:
    """Raise ValueError naming the key, and not its value, that holds a secret: configs are kept and shown.

    ``tracking`` may hold one: it is never written.
    """
    checked = {key: value for key, value in config.items() if key != "tracking"}
    known = _secrets()
    text = json.dumps(checked, ensure_ascii=False)  # one look at all of it, as a plan has a thousand configs
    if not any(form in text for form in known) and _without_passwords(text) == text:
        return
    for key, leaf in _leaves(checked):
        for form, name in known.items():
            if form in leaf or form in key:
                where = "a key" if form in key else key
                raise ValueError(
                    f"{where} must not hold the value of ${name}, because configs are kept and shown: leave "
                    "it in the environment, where the code that needs it reads it"
                )
        if _without_passwords(leaf) != leaf:
            raise ValueError(
                f"{key} must not hold a URL with a password, because configs are kept and shown: put the "
                "password where the client of that address looks for it, such as ~/.netrc or ~/.pgpass"
            )


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and the text of their values."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _leaves(value, key)
    else:
        yield key, str(node)


class RedactedText(io.TextIOWrapper):
    """A text stream that writes redacted lines; a line that is not ended yet appears when it is flushed.

    What bypasses it is not filtered: native code that writes to the file descriptor, and ``buffer``.
    """

    def __init__(self, buffer: io.BufferedWriter) -> None:
        super().__init__(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._rest = ""
        self._turn = threading.RLock()  # a signal handler may print in the middle of a print

    def write(self, text: str) -> int:
        """Take in text; whole lines are written. Gives back the number of characters taken."""
        with self._turn:
            whole, newline, self._rest = (self._rest + text).rpartition("\n")
            if newline:
                super().write(redact(whole + newline))
        return len(text)

    def flush(self) -> None:
        """Write what is there, also of a line that is not ended."""
        with self._turn:
            rest, self._rest = self._rest, ""
            if rest:
                super().write(redact(rest))
            super().flush()
