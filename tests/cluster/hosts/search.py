"""One search on the hosts: what is asked, how it is started, and what came of it."""

import contextlib
import copy
import json
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.cluster.conftest import SEARCH
from tests.cluster.hosts.cluster import DASHBOARD, KEYS, RAY, STILLHOUSE, STORE, STUDY, TRACKING
from tests.cluster.hosts.host import HOME, Host, Program

TEACHER, STUDENT = 40, 150
"""Epochs: long enough that a fault finds them under way."""
CLOCK = ("seconds", "images_per_second")
"""Figures that are alike on no two runs."""
FOUND = """
import json, sys
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.artifacts.store import Library
from stillhouse.search.runs.result import read_outcome

run, place = sys.argv[1:]
library = Library(place)
outcome = read_outcome(RunFolder.find(run))
trials = [[t.number, t.state, t.values, t.stage_keys, t.figures] for t in outcome.trials]
payloads = {key: library.open_artifact(key).record.payload.sha256 for key in library.keys()}
print("found", json.dumps({"trials": trials, "payloads": payloads}))
"""
"""Opening an artifact compares its bytes with the digest in its record."""


PLACES = {"study": STUDY, "tracking": TRACKING}


def asked(own_teachers: bool = False) -> dict[str, Any]:
    """The experiment as plain data: four trials of one teacher, or each of a teacher of its own."""
    told = copy.deepcopy(SEARCH)
    told["stages"]["teacher"]["training"]["epochs"] = TEACHER
    told["stages"]["student"]["training"]["epochs"] = STUDENT
    if own_teachers:
        told["search"] = {"teacher.training.lr": {"choice": [0.02, 0.03, 0.05, 0.08]}}
    return told


@dataclass
class Search:
    """A search of a name of its own, driven on ``host``."""

    host: Host
    name: str
    told: dict[str, Any] = field(default_factory=asked)
    library: str = ""
    """Its address; empty: on the head's store."""
    places: dict[str, str] = field(default_factory=lambda: PLACES)
    """Of study and tracking."""

    def __post_init__(self) -> None:
        self.library = self.library or f"s3://stillhouse/{self.name}?{STORE}"

    @property
    def run(self) -> str:
        return f"{self.name}-1"

    def write(self, host: Host | None = None) -> str:
        """The experiment as a file in a host's home; its name."""
        own = {"name": self.name, "library": self.library, **self.places}
        text = yaml.safe_dump({**self.told, **own})
        ((host or self.host).home / f"{self.name}.yaml").write_text(text, encoding="utf-8")
        return f"{self.name}.yaml"

    def launch(self, *words: str) -> Program:
        where = words or ("--address", RAY)
        return self.host.start(self.name, *STILLHOUSE, "launch", self.write(), *where, **KEYS)

    def resume(self) -> Program:
        words = ("resume", self.run, "--address", RAY)
        return self.host.start(f"{self.name}-again", *STILLHOUSE, *words, **KEYS)

    def found(self) -> dict[str, Any]:
        """Each trial with its values, keys and figures, and each artifact's digest by key."""
        told = self.host.call("python", "-c", FOUND, self.run, self.library, **KEYS)
        found: dict[str, Any] = json.loads(told.partition("found ")[2])
        for *_, figures in found["trials"]:
            for name in CLOCK:
                figures.pop(name, None)
        return found

    def state(self, desk: Host) -> str:
        """How the dashboard says, asked from ``desk``, that it stands; empty before it begins."""
        words = ("status", self.name, "--address", DASHBOARD, "--json")
        with contextlib.suppress(AssertionError):
            return str(json.loads(desk.call(*STILLHOUSE, *words))["state"])
        return ""


def has_trial(host: Host) -> bool:
    """Whether a trial runs there; Ray names its process by the class or by Tune's wrapper of it."""
    return any(host.processes(title) for title in ("ray::Trial", "ray::ResourceTrainable"))


def in_one_process(host: Host, name: str, told: dict[str, Any]) -> dict[str, Any]:
    """What a search comes to where nothing happens to it: on one host, without Ray."""
    search = Search(host, name, told, f"{HOME}/{name}", {"tracking": "sqlite:///mlflow.db"})
    program = search.launch("--inline")
    assert program.ends(900) == 0, program.text
    found = search.found()
    assert [state for _, state, *_ in found["trials"]] == ["finished"] * 4
    return found
