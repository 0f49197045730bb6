"""Names that MLflow's registry accepts for a model."""

from __future__ import annotations

MAX_NAME_LENGTH = 256
"""The length of the column in the registry's database."""
_FORBIDDEN_CHARACTERS = "/:'\""


def name_problem(name: str) -> str:
    """Why MLflow would refuse a model's name; empty if the name is valid.

    Quotes are refused because queries of the registry quote the name. ``.`` and names that begin
    with ``..`` are refused because they would be paths.
    """
    is_printable = (
        name.strip() and name.isprintable() and not set(_FORBIDDEN_CHARACTERS) & set(name)
    )
    if is_printable and len(name) <= MAX_NAME_LENGTH and name != "." and not name.startswith(".."):
        return ""
    return (
        f"{name[:MAX_NAME_LENGTH]!r} is no name for a registered model; it needs 1 to "
        f"{MAX_NAME_LENGTH} letters, without / and : and without quotes, like team-model"
    )
