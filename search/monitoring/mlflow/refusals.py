"""Operations that MLflow refuses permanently; they are set aside on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from stillhouse.search.core.addresses import scrub
from stillhouse.search.monitoring.mlflow.errors import root_cause_line
from stillhouse.search.monitoring.mlflow.locations import is_server
from stillhouse.search.monitoring.mlflow.outbox import OutboxEntry
from stillhouse.spaces.config.problems import ConfigError

log = logging.getLogger(__name__)

# All other errors (unreachable, busy, forbidden) may be temporary.
_REFUSAL_CODES = {
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
}
NOT_FOUND_CODE = "RESOURCE_DOES_NOT_EXIST"
"""MLflow's error code where it has no such run or experiment."""


def is_refusal(error: Exception, uri: str) -> bool:
    """Whether sending again would always fail in the same way."""
    from mlflow.exceptions import MlflowException, RestException

    match error:
        case MlflowException(error_code="BAD_REQUEST") if is_server(uri):
            return isinstance(error, RestException)  # not a proxy's error page
        case MlflowException(error_code=code):
            return code in {*_REFUSAL_CODES, NOT_FOUND_CODE}
        case FileNotFoundError():
            return True
        case OSError():  # a network error, or an upload too large for a proxy
            return getattr(getattr(error, "response", None), "status_code", 0) == 413
        case ConfigError():  # the experiment was deleted, and may be restored
            return False
    return isinstance(error, ValueError | TypeError | KeyError | AttributeError)


class Refusals:
    """The refused operations in ``refused.jsonl``, one line each with the reason.

    ``reason`` is that of the last one, "" if there is none.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._path = folder / "refused.jsonl"
        self._uri = uri
        self.count = count_refusals(folder)
        self.reason = _last_reason(self._path) if self.count else ""

    def add(self, entries: Sequence[OutboxEntry], error: Exception, explanation: str = "") -> None:
        """Set aside operations that were refused for one reason, and log one warning.

        ``explanation`` replaces the error's text in the warning; the file has both.
        """
        full_reason = scrub(f"{explanation}: {error}" if explanation else str(error), self._uri)
        with self._path.open("a", encoding="utf-8") as lines:
            for entry in entries:
                lines.write(json.dumps({"reason": full_reason, **entry}) + "\n")
        self.count += len(entries)
        count_text = "an entry" if len(entries) == 1 else f"{len(entries)} entries"
        self.reason = scrub(explanation or root_cause_line(error), self._uri)
        log.warning("MLflow refused %s, kept in %s: %s", count_text, self._path, self.reason)


def count_refusals(folder: Path) -> int:
    """The number of refused operations in a search's ``tracking`` folder."""
    path = folder / "refused.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as lines:
        return sum(line.endswith(b"\n") for line in lines)


def _last_reason(path: Path) -> str:
    last = path.read_text(encoding="utf-8", errors="replace").splitlines()[-1]
    try:
        return str(json.loads(last)["reason"]).splitlines()[0][:300]
    except (ValueError, KeyError, TypeError, IndexError):
        return ""
