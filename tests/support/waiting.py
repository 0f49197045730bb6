"""Wait for a condition."""

import time


def within(seconds, condition):
    """Whether ``condition`` becomes true in time; returns its last value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value
