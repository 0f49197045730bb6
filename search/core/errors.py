"""The error for storage that a search needs and cannot use."""

from __future__ import annotations

import errno

from stillhouse.spaces.config.problems import Problem

FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of storage without free space."""
FORBIDDEN_ERRNOS = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Error numbers of storage that must not be written."""


class StorageUnavailable(RuntimeError):
    """The library, the study or the run folder is full, unreachable or forbidden.

    It is no failure of a stage or a trial: the search stops and records none, and a resume
    continues it. ``message`` is one line with the storage, the cause and the remedy.
    """

    def __init__(self, storage: str, message: str) -> None:
        super().__init__(storage, message)
        self.problem = Problem(storage, message)

    def __str__(self) -> str:
        return str(self.problem)
