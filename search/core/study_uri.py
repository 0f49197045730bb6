"""Checks the address of a study without loading Optuna."""

from __future__ import annotations

_DRIVERS = {"postgresql+psycopg": "psycopg", "postgresql+psycopg2": "psycopg2"}
ALLOWED_URIS = (
    "postgresql+psycopg://USER@HOST/DATABASE, or sqlite:////ABSOLUTE/FILE.db on one machine"
)


def check_study_uri(uri: str) -> None:
    """Refuse an address that cannot hold a study.

    Raises:
        ValueError: another scheme, a relative file, a database in memory.
    """
    scheme = uri.partition(":")[0]
    if scheme == "sqlite":
        file = uri.removeprefix("sqlite:///").partition("?")[0]
        if not (uri.startswith("sqlite:////") and file.strip("/")):
            raise ValueError(f"a SQLite file needs its whole path; allowed are {ALLOWED_URIS}")
    elif "://" not in uri or with_driver(uri).partition(":")[0] not in _DRIVERS:
        found = f"{scheme}://" if "://" in uri else "no address"
        raise ValueError(
            f"found {found}; allowed are {ALLOWED_URIS}; without it, the run's own folder"
        )


def with_driver(uri: str) -> str:
    """The address with the driver of the extra ``[cluster]`` if it names none."""
    scheme, separator, remainder = uri.partition("://")
    drivers = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
    return f"{drivers.get(scheme, scheme)}{separator}{remainder}"


def driver_of(uri: str) -> str:
    """The Python module of the database's driver; empty for SQLite."""
    return _DRIVERS.get(with_driver(uri).partition(":")[0], "")


def is_sqlite(uri: str) -> bool:
    """Whether the study is a SQLite file."""
    return uri.startswith("sqlite:")
