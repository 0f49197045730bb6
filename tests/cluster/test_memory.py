"""A machine that runs out of memory: Ray ends the stage, and the message has a remedy."""

from pathlib import Path

import pytest

from stillhouse.search.execution.scheduler import MAX_RETRIES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    # Ray does not wait for all processes of a node that it kills.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning"),
]


def test_a_stage_that_fills_its_machine_is_ended_and_tried_again(
    machines, stage, new_client, starts
):
    """Ray ends it in time; the final message is one line with a remedy."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    memory = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    used = memory["MemTotal"] - memory["MemAvailable"]
    machines(
        head_cpus=1,
        memory_usage_threshold=(used + 2.5 * 2**30) / memory["MemTotal"],
        memory_monitor_refresh_ms=100,
    )
    greedy, sound = stage("Greedy", "greedy"), stage("Steady", "sound")
    client = new_client()
    (said,) = client.build([greedy, sound]).values()
    assert said.startswith(f"its machine ran out of memory in each of {MAX_RETRIES + 1} attempts")
    assert "run.concurrent" in said
    assert "\n" not in said
    # Ray itself may start a task that it ended for memory again, before it tells of an attempt.
    assert len(starts("greedy")) >= MAX_RETRIES + 1
    assert client.all_built([sound])
