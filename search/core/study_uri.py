"""Which addresses a study may have; told without loading Optuna."""

from __future__ import annotations

_DRIVERS = {"postgresql+psycopg": "psycopg", "postgresql+psycopg2": "psycopg2"}
ALLOWED = "postgresql+psycopg://USER@HOST/DATABASE, or sqlite:////ABSOLUTE/FILE.db on one machine"


def check_address(study: str) -> None:
    """Refuse what no study can lie in.

    Raises:
        ValueError: another scheme, a relative file, a database in memory.
    """
    scheme = study.partition(":")[0]
    if scheme == "sqlite":
        file = study.removeprefix("sqlite:///").partition("?")[0]
        if not (study.startswith("sqlite:////") and file.strip("/")):
            raise ValueError(f"a SQLite file needs its whole path; allowed are {ALLOWED}")
    elif "://" not in study or with_driver(study).partition(":")[0] not in _DRIVERS:
        found = f"{scheme}://" if "://" in study else "no address"
        raise ValueError(f"found {found}; allowed are {ALLOWED}; without it, the run's own folder")


def with_driver(study: str) -> str:
    """The address with the driver that the extra ``[cluster]`` brings, where it names none."""
    scheme, middle, rest = study.partition("://")
    named = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
    return f"{named.get(scheme, scheme)}{middle}{rest}"


def driver_of(study: str) -> str:
    """The module that speaks to the database; empty for SQLite."""
    return _DRIVERS.get(with_driver(study).partition(":")[0], "")


def is_sqlite(study: str) -> bool:
    """Whether it is a file on this machine."""
    return study.startswith("sqlite:")
