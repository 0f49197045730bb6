"""A process whose work hangs ends itself, and notes that if it can."""

import subprocess
import sys
import time

import pytest

from stillhouse.search.execution.watchdog import Watchdog, pop_hang_timeout, stage_watchdog

HANGS = """
import re, sys, time
from stillhouse.search.execution import watchdog
from stillhouse.search.artifacts.store import Library

watchdog.EXIT_GRACE_S = 1.0
with watchdog.stage_watchdog(Library(sys.argv[1]), "key", 2.0) as watched:
    for _ in range(5):
        time.sleep(0.6)
        watched.heartbeat()
    print("still here", flush=True)
    {work}
"""


def hang(work, uri):
    code = HANGS.format(work=work)
    run = [sys.executable, "-c", code, uri]
    return subprocess.run(run, capture_output=True, text=True, timeout=300)


def test_work_that_sleeps_is_ended_with_last_words(library):
    done = hang("time.sleep(3600)", library.uri)
    assert (done.returncode, done.stdout) == (1, "still here\n")
    assert 'File "<string>", line' in done.stderr
    assert pop_hang_timeout(library, "key") == 2.0
    assert pop_hang_timeout(library, "key") is None


@pytest.mark.slow
def test_work_that_holds_the_interpreter_is_ended_too(library):
    done = hang("re.match('(a*)*b', 'a' * 60)", library.uri)
    assert (done.returncode, done.stdout) == (1, "still here\n")
    assert 'File "<string>", line' in done.stderr


@pytest.mark.slow
def test_a_library_that_hangs_as_well_delays_the_end_only(library):
    code = HANGS.format(work="Library.save_scratch = lambda *_: time.sleep(3600); time.sleep(3600)")
    code = code.replace("watchdog.EXIT_GRACE_S = 1.0", "watchdog.ON_TIMEOUT_LIMIT_S = 1.0")
    run = [sys.executable, "-c", code, library.uri]
    assert subprocess.run(run, capture_output=True, timeout=300).returncode == 1


def test_nothing_happens_to_who_reports_or_is_not_watched(library):
    said = []
    for patience in (0.3, None):
        watched = Watchdog(patience, lambda: said.append("last words"))
        for _ in range(3):
            with watched:
                for _ in range(4):
                    time.sleep(0.02)
                    watched.heartbeat()
        time.sleep(0.4)  # between two steps nothing is watched
    assert said == []
    assert stage_watchdog(library, "key", None)
