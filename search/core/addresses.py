"""Addresses of places: shown, kept and complained about without the secrets they may hold.

``user:password@`` and settings such as ``?password=`` are used where a connection is opened, and
nowhere else: what is written down (:func:`kept`) or said (:func:`shown`, :func:`hushed`) has none.
Whoever goes on with a run finds them in the environment (:data:`REMEDIES`).
"""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

REMEDIES = {
    "database": "set PGPASSWORD, or add a line to ~/.pgpass",
    "server": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
}
"""Where a password belongs instead."""

_SECRET = re.compile(r"pass|pwd|secret|token|credential|signature|^sig$|^sas|key$", re.IGNORECASE)
_FILES = {"sslkey", "passfile"}
"""Settings that name a file of secrets, and none."""
_USER = re.compile(r"(?P<user>[^/?#:@]*)(?::(?!\d+(?:/|$))(?P<password>[^\s]*))?@")
_IN_TEXT = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^\s'\"<>]+")
_HIDDEN = "***"


def shown(uri: str) -> str:
    """For people: without user, password and settings."""
    scheme, _, rest, _ = _parts(uri)
    return f"{scheme}{rest}"


def kept(uri: str) -> str:
    """For files that outlive the process: without password and secret settings.

    A database's user stays, since the password belongs to it; what stands before a server's name
    may be a token as well, and goes.
    """
    scheme, (user, _), rest, settings = _parts(uri)
    user = "" if scheme.startswith("http") else user
    open_ = [f"{name}={value}" for name, value in settings if not _is_secret(name)]
    return f"{scheme}{user}{'@' if user else ''}{rest}" + (f"?{'&'.join(open_)}" if open_ else "")


def has_secret(uri: str) -> bool:
    """Whether something of the address must not be written down."""
    return bool(secrets(uri))


def secrets(uri: str) -> set[str]:
    """The secret parts, as they stand in the address and as they are meant."""
    scheme, (user, password), _, settings = _parts(uri)
    found = [password, *(value for name, value in settings if _is_secret(name))]
    if scheme.startswith("http") and not password:
        found.append(user)  # a token
    return {way(text) for text in found if text for way in (str, unquote, unquote_plus)}


def hushed(text: str, *uris: str | None) -> str:
    """Text (of an error, say) without any secret of ``uris``, nor of another address in it."""
    for secret in sorted({s for uri in uris if uri for s in secrets(uri)}, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _IN_TEXT.sub(lambda found: _hidden(found.group()), text)


def remedy_of(uri: str) -> str:
    """Where the password of an address belongs."""
    return REMEDIES["server" if uri.startswith("http") else "database"]


def keys_in(uri: str) -> str:
    """What to say of an address that holds keys; nothing if it holds none.

    It names artifacts on every machine, in records and in MLflow, so that keys have no place in it.
    """
    if uri.startswith("s3://") and (_USER.match(uri[5:]) or has_secret(uri)):
        return "holds keys: put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if has_secret(uri):
        return f"{shown(uri)} holds keys: put them into the environment or the machine's role"
    return ""


def _hidden(address: str) -> str:
    return kept(address) if has_secret(address) else address


def _is_secret(name: str) -> bool:
    return name.lower() not in _FILES and bool(_SECRET.search(name))


def _parts(uri: str) -> tuple[str, tuple[str, str], str, list[tuple[str, str]]]:
    """Scheme with its ``://``, user and password, the rest, and the settings behind ``?``.

    A password may hold what has a meaning elsewhere (``/``, ``?``, ``#``, ``@``), as SQLAlchemy
    takes it: so it ends at the last ``@`` there is.
    """
    scheme, middle, rest = uri.partition("://")
    if not middle:
        return "", ("", ""), uri, []  # a folder, which may have any name
    user, password = "", ""
    if found := _USER.match(rest):
        user, password = found["user"], found["password"] or ""
        rest = rest[found.end() :]
    rest, _, query = rest.partition("?")
    return f"{scheme}://", (user, password), rest, _settings(query)


def _settings(query: str) -> list[tuple[str, str]]:
    pairs = [part.partition("=") for part in query.split("&") if part]
    return [(name, value) for name, _, value in pairs]
