"""Whether the MLflow that is installed can use a database: its schema's revision is compared."""

from __future__ import annotations

import functools
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from stillhouse.search.core.addresses import shown

_FOLDER = Path("store/db_migrations/versions")
_REVISION = re.compile(r"""^revision\s*=\s*["'](\w+)["']""", re.MULTILINE)
_BEFORE = re.compile(r"""^down_revision\s*=\s*["'](\w+)["']""", re.MULTILINE)


@functools.cache
def revisions() -> tuple[frozenset[str], str]:
    """All revisions that the installed MLflow knows, and the newest, which it needs.

    They are read from its migrations, since loading MLflow takes seconds. Empty where they are
    not found.
    """
    spec = find_spec("mlflow")
    places = spec.submodule_search_locations if spec else None
    files = [file for place in places or () for file in (Path(place) / _FOLDER).glob("*.py")]
    texts = [file.read_text(encoding="utf-8") for file in files]
    known = {found[1] for text in texts if (found := _REVISION.search(text))}
    before = {found[1] for text in texts if (found := _BEFORE.search(text))}
    newest = known - before
    return frozenset(known), newest.pop() if len(newest) == 1 else ""


def mismatch(revision: str, uri: str) -> str:
    """Why a database at this revision cannot be used, with the remedy; "" where it can be."""
    known, newest = revisions()
    if not newest or revision == newest:
        return ""
    here = f"MLflow {version('mlflow')} here"
    if revision in known:
        return (
            f"an older MLflow wrote it (schema {revision}, {here} needs {newest}); "
            f"copy the database, then run `mlflow db upgrade {shown(uri)}`"
        )
    return (
        f"a newer MLflow wrote it (schema {revision}, {here} knows schemas up to {newest}); "
        "install that MLflow, or name another store with `tracking:`"
    )
