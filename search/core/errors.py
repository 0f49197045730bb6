"""What stops a search because a place that it rests on cannot be used any more."""

from __future__ import annotations

from stillhouse.spaces.config.problems import Problem


class StorageUnavailable(RuntimeError):
    """The library, the study or the run's folder is full, away, or closed to us.

    No stage's and no trial's failure: the search stops, nothing is booked, and a resume goes on
    where it was. ``message`` is one line with the place, what it said, and the remedy.
    """

    def __init__(self, storage: str, message: str) -> None:
        super().__init__(storage, message)
        self.problem = Problem(storage, message)

    def __str__(self) -> str:
        return str(self.problem)
