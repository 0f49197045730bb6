"""Removes secrets from addresses before they are stored or displayed.

``user:password@`` and settings such as ``?password=`` serve only to open a connection.
:func:`for_storage`, :func:`for_display` and :func:`scrub` remove them. A resume reads them from
the environment (:data:`CREDENTIAL_REMEDIES`).
"""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

CREDENTIAL_REMEDIES = {
    "database": "set PGPASSWORD, or add a line to ~/.pgpass",
    "server": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
}
"""Kind of address -> the right place for its password."""

_SECRET_NAME = re.compile(
    r"pass|pwd|secret|token|credential|signature|^sig$|^sas|key$", re.IGNORECASE
)
_SECRET_FILE_SETTINGS = {"sslkey", "passfile"}
"""Settings whose value is the path of a secret file, not a secret."""
_USER_INFO = re.compile(r"(?P<user>[^/?#:@]*)(?::(?!\d+(?:/|$))(?P<password>[^\s]*))?@")
_ADDRESS_IN_TEXT = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^\s'\"<>]+")
_MASK = "***"


def for_display(uri: str) -> str:
    """The address for people: without user, password and settings."""
    scheme, _, location, _ = _split_uri(uri)
    return f"{scheme}{location}"


def for_storage(uri: str) -> str:
    """The address for files: without password and secret settings.

    The user of a database stays, because its password is looked up by user. The user of a server
    is removed, because it may be a token.
    """
    scheme, (user, _), location, settings = _split_uri(uri)
    user = "" if scheme.startswith("http") else user
    public_settings = [f"{name}={value}" for name, value in settings if not _is_secret(name)]
    return f"{scheme}{user}{'@' if user else ''}{location}" + (
        f"?{'&'.join(public_settings)}" if public_settings else ""
    )


def has_secret(uri: str) -> bool:
    """Whether the address contains a secret."""
    return bool(secret_parts(uri))


def secret_parts(uri: str) -> set[str]:
    """The secret parts, both percent-encoded and decoded."""
    scheme, (user, password), _, settings = _split_uri(uri)
    candidates = [password, *(value for name, value in settings if _is_secret(name))]
    if scheme.startswith("http") and not password:
        candidates.append(user)  # a token
    return {decode(text) for text in candidates if text for decode in (str, unquote, unquote_plus)}


def scrub(text: str, *uris: str | None) -> str:
    """The text without secrets of ``uris`` and of other addresses in it."""
    for secret in sorted(
        {s for uri in uris if uri for s in secret_parts(uri)}, key=len, reverse=True
    ):
        text = text.replace(secret, _MASK)
    return _ADDRESS_IN_TEXT.sub(lambda match: _mask_address(match.group()), text)


def credential_remedy(uri: str) -> str:
    """The right place for the password of an address."""
    return CREDENTIAL_REMEDIES["server" if uri.startswith("http") else "database"]


def embedded_keys_message(uri: str) -> str:
    """The error for a library address with keys; empty without keys.

    Records and MLflow store the address, so it must not contain keys.
    """
    if uri.startswith("s3://") and (_USER_INFO.match(uri[5:]) or has_secret(uri)):
        return "holds keys: put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if has_secret(uri):
        return f"{for_display(uri)} holds keys: put them into the environment or the machine's role"
    return ""


def _mask_address(address: str) -> str:
    return for_storage(address) if has_secret(address) else address


def _is_secret(name: str) -> bool:
    return name.lower() not in _SECRET_FILE_SETTINGS and bool(_SECRET_NAME.search(name))


def _split_uri(uri: str) -> tuple[str, tuple[str, str], str, list[tuple[str, str]]]:
    """Scheme with its ``://``, user and password, location, and the settings after ``?``.

    As in SQLAlchemy, a password may contain ``/``, ``?``, ``#`` and ``@``: it ends at the last
    ``@``.
    """
    scheme, separator, location = uri.partition("://")
    if not separator:
        return "", ("", ""), uri, []  # a folder may have any name
    user, password = "", ""
    if match := _USER_INFO.match(location):
        user, password = match["user"], match["password"] or ""
        location = location[match.end() :]
    location, _, query = location.partition("?")
    return f"{scheme}://", (user, password), location, _parse_query(query)


def _parse_query(query: str) -> list[tuple[str, str]]:
    pairs = [part.partition("=") for part in query.split("&") if part]
    return [(name, value) for name, _, value in pairs]
