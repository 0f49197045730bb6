"""Compares a database's schema revision with those of the installed MLflow."""

from __future__ import annotations

import functools
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from stillhouse.search.core.addresses import for_display

_MIGRATIONS = Path("store/db_migrations/versions")
_REVISION = re.compile(r"""^revision\s*=\s*["'](\w+)["']""", re.MULTILINE)
_DOWN_REVISION = re.compile(r"""^down_revision\s*=\s*["'](\w+)["']""", re.MULTILINE)


@functools.cache
def known_revisions() -> tuple[frozenset[str], str]:
    """All revisions that the installed MLflow knows, and the newest, which it needs.

    They are read from its migration files, since loading MLflow takes seconds. Both are empty if
    the files are not found.
    """
    spec = find_spec("mlflow")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in (Path(folder) / _MIGRATIONS).glob("*.py")]
    texts = [file.read_text(encoding="utf-8") for file in files]
    all_revisions = {match[1] for text in texts if (match := _REVISION.search(text))}
    parents = {match[1] for text in texts if (match := _DOWN_REVISION.search(text))}
    newest = all_revisions - parents
    return frozenset(all_revisions), newest.pop() if len(newest) == 1 else ""


def schema_mismatch(revision: str, uri: str) -> str:
    """Why a database of this revision cannot be used, with the remedy; "" if it can."""
    all_revisions, newest = known_revisions()
    if not newest or revision == newest:
        return ""
    installed = f"MLflow {version('mlflow')} here"
    if revision in all_revisions:
        return (
            f"an older MLflow wrote it (schema {revision}, {installed} needs {newest}); "
            f"copy the database, then run `mlflow db upgrade {for_display(uri)}`"
        )
    return (
        f"a newer MLflow wrote it (schema {revision}, {installed} knows schemas up to {newest}); "
        "install that MLflow, or name another store with `tracking:`"
    )
