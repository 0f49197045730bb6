"""Who is let in: Ray's token. Whoever may speak to a Ray runs code on its machines.

A Ray of our own asks for the token in ``~/.ray/auth_token``. A cluster is shown that token if it
asks for one, and not otherwise: a driver that insists on tokens cannot talk to workers that have
none. ``RAY_AUTH_MODE``, ``RAY_AUTH_TOKEN`` and ``RAY_AUTH_TOKEN_PATH`` mean what they mean to Ray;
what the user has set stays.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ray
from ray._private import services
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationTokenLoader,
    Config,
    GcsClient,
)


def ensure_token() -> None:
    """Have a token for a Ray of our own, readable by this user alone.

    Ray would make one itself, in a file that all users of the machine may read.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    _set_token_mode()
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_if_absent(path, secrets.token_hex(32))
        if path.stat().st_uid == os.getuid():
            path.chmod(0o600)
    except OSError:  # a home that cannot be written: a token for this run alone
        if not os.access(path, os.R_OK):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _write_if_absent(path: Path, text: str) -> None:
    """Write a file of this user's only, whole or not at all, unless there is one with a token."""
    if path.exists() and path.stat().st_size:
        return
    fd, temp_path = tempfile.mkstemp(prefix=".auth_token-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
        path.unlink(missing_ok=True)  # an empty one
        with contextlib.suppress(FileExistsError):  # another run was faster, and its token counts
            os.link(temp_path, path)
    finally:
        os.unlink(temp_path)


def present_token(address: str) -> None:
    """Have Ray show the token to the cluster at ``address`` if it asks for one.

    Ray itself would try without one for twenty seconds, and then say that nobody answers.

    Raises:
        ray.exceptions.AuthenticationError: it asks, and the token is missing or another's.
    """
    ensure_token_if_auth_enabled(None, create_token_if_missing=False)
    if "/" in address or not _rejects_token(address):
        return
    if enable_token_auth() and not _rejects_token(address):
        return
    raise ray.exceptions.AuthenticationError("the token is missing or another's")


def enable_token_auth() -> bool:
    """Have Ray show the token to whoever it speaks to.

    Returns False where there is no token, or the user has set ``RAY_AUTH_MODE``.
    """
    has_token = AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
    if not has_token or "RAY_AUTH_MODE" in os.environ:
        return False
    _set_token_mode()
    return True


def _set_token_mode() -> None:
    """Ray shows tokens and asks for them, in this process and those it starts."""
    os.environ["RAY_AUTH_MODE"] = "token"
    Config.initialize("")  # this process has read its environment before


def _rejects_token(address: str) -> bool:
    """Whether the cluster refuses this process for its token; False where nobody answers."""
    try:
        with _silence_stderr():
            GcsClient(address=services.canonicalize_bootstrap_address(address))
    except Exception as error:  # what else is wrong, ray.init says
        return "InvalidAuthToken" in str(error)
    return False


@contextlib.contextmanager
def _silence_stderr() -> Iterator[None]:
    """Ray's C++ side says on the standard error stream what the exception says again."""
    saved_stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(saved_stderr, 2)
        os.close(saved_stderr)
