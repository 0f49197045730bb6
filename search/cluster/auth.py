"""Authentication by Ray's token: whoever may speak to a Ray runs code on its machines.

A Ray that the search starts requires the token in ``~/.ray/auth_token``. A driver presents the
token to a cluster only if the cluster requires it: a driver in token mode cannot talk to workers
that have no token. ``RAY_AUTH_MODE``, ``RAY_AUTH_TOKEN`` and ``RAY_AUTH_TOKEN_PATH`` have Ray's
meaning, and a value of the user's is never replaced.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ray

from stillhouse.search.cluster.private_api import has_token, load_token, ping_head, set_token_mode


def ensure_token() -> None:
    """Create a token for a local Ray, readable by this user alone, unless there is one.

    Ray would create it in a file that all users of the machine may read.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    set_token_mode()
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_if_absent(path, secrets.token_hex(32))
        if path.stat().st_uid == os.getuid():
            path.chmod(0o600)
    except OSError:  # the home cannot be written: use a token for this run only
        if not os.access(path, os.R_OK):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _write_if_absent(path: Path, text: str) -> None:
    """Write a private file atomically, unless a file with content exists."""
    if path.exists() and path.stat().st_size:
        return
    fd, temp_path = tempfile.mkstemp(prefix=".auth_token-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
        path.unlink(missing_ok=True)  # it is empty
        with contextlib.suppress(FileExistsError):  # another run was faster: use its token
            os.link(temp_path, path)
    finally:
        os.unlink(temp_path)


def present_token(address: str) -> None:
    """Present the token to the cluster at ``address`` if the cluster requires it.

    Without this, Ray tries for twenty seconds and then reports that nothing answers.

    Raises:
        ray.exceptions.AuthenticationError: the token is missing or wrong.
    """
    load_token()
    if "/" in address or not _rejects_token(address):
        return
    if enable_token_auth() and not _rejects_token(address):
        return
    raise ray.exceptions.AuthenticationError("the token is missing or another's")


def enable_token_auth() -> bool:
    """Present the token on every connection from now on.

    Returns False if there is no token, or if the user has set ``RAY_AUTH_MODE``.
    """
    if not has_token() or "RAY_AUTH_MODE" in os.environ:
        return False
    set_token_mode()
    return True


def _rejects_token(address: str) -> bool:
    """Whether the cluster rejects the token of this process; False if nothing answers."""
    try:
        with _silence_stderr():
            ping_head(address)
    except Exception as error:  # ray.init reports every other error
        return "InvalidAuthToken" in str(error)
    return False


@contextlib.contextmanager
def _silence_stderr() -> Iterator[None]:
    """Discard what Ray's C++ side prints: the exception repeats it."""
    saved_stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(saved_stderr, 2)
        os.close(saved_stderr)
