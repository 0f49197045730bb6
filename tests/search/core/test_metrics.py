"""The registry of metrics."""

import pytest

from stillhouse.search.core import formatting
from stillhouse.search.core.metrics import (
    COST_METRICS,
    DEVICE_METRICS,
    GOAL_METRICS,
    METRICS,
    NETWORK_METRICS,
    find_metric,
)


def test_the_groups_of_metrics():
    assert NETWORK_METRICS == ("parameters", "flops", "bytes")
    assert (*NETWORK_METRICS, "latency_ms") == COST_METRICS
    assert DEVICE_METRICS == ("latency_ms", "latency_spread_ms")
    assert set(COST_METRICS) <= set(GOAL_METRICS)
    assert not [name for name in COST_METRICS if METRICS[name].maximize]


def test_a_metric_that_is_named_by_its_split_has_its_unit():
    assert find_metric("test_accuracy").is_share
    assert find_metric("screen_val_nll").unit == ""
    assert find_metric("median_ms").unit == "ms"
    assert formatting.axis_label("exit_val_accuracy") == "exit val accuracy, %"


@pytest.mark.parametrize("name", METRICS)
def test_the_unit_of_a_metric_is_that_of_names_derived_from_it(name):
    assert find_metric(f"screen_{name}").unit == METRICS[name].unit
