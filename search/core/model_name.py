"""Names under which MLflow's registry takes a model."""

from __future__ import annotations

LONGEST = 256
"""Letters that the registry's database keeps."""
_FORBIDDEN = "/:'\""


def name_problem(name: str) -> str:
    """What is wrong with a registered model's name, as the rest of a line; empty if nothing is.

    Quotes are refused because the registry is asked for a name between quotes. A name that begins
    with two dots, and a single dot, would be a path.
    """
    fits = name.strip() and name.isprintable() and not set(_FORBIDDEN) & set(name)
    if fits and len(name) <= LONGEST and name != "." and not name.startswith(".."):
        return ""
    return (
        f"{name[:LONGEST]!r} is no name for a registered model; it needs 1 to {LONGEST} letters, "
        "without / and : and without quotes, like team-model"
    )
