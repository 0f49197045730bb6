"""Names under which MLflow's registry takes a model."""

from __future__ import annotations

MAX_NAME_LENGTH = 256
"""Letters that the registry's database keeps."""
_FORBIDDEN_CHARACTERS = "/:'\""


def name_problem(name: str) -> str:
    """What is wrong with a registered model's name, as the rest of a line; empty if nothing is.

    Quotes are refused because the registry is asked for a name between quotes. A name that begins
    with two dots, and a single dot, would be a path.
    """
    is_printable = (
        name.strip() and name.isprintable() and not set(_FORBIDDEN_CHARACTERS) & set(name)
    )
    if is_printable and len(name) <= MAX_NAME_LENGTH and name != "." and not name.startswith(".."):
        return ""
    return (
        f"{name[:MAX_NAME_LENGTH]!r} is no name for a registered model; it needs 1 to {MAX_NAME_LENGTH} letters, "
        "without / and : and without quotes, like team-model"
    )
