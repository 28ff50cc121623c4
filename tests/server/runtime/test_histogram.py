"""Histograms of durations."""

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from electrumx.server.runtime.histogram import Histogram

BOUNDS = (0.001, 0.01, 0.1, 1)


def test_value_at_a_bound_belongs_to_its_bucket():
    histogram = Histogram(BOUNDS)
    for value in (0, 0.001, 0.0011, 1, 1.5):
        histogram.observe(value)

    assert histogram.counts == [2, 1, 0, 1, 1]
    assert histogram.count == 5
    assert histogram.total == 0.001 + 0.0011 + 1 + 1.5


def test_quantile_is_the_bound_of_its_bucket():
    histogram = Histogram(BOUNDS)
    assert histogram.quantile(0.5) is None
    for value in [0.0005] * 98 + [0.05] + [7]:
        histogram.observe(value)

    assert histogram.quantile(0.5) == 0.001
    assert histogram.quantile(0.99) == 0.1
    assert histogram.quantile(1) == 1


@given(st.lists(st.floats(0, 10)), st.floats(0.01, 1))
def test_quantile_bounds_the_exact_one(values, part):
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    assert histogram.count == len(values)
    if values:
        position = max(0, -int(-part * len(values) // 1) - 1)
        exact = sorted(values)[position]
        found = histogram.quantile(part)
        assert found in BOUNDS
        assert found == BOUNDS[min(bisect_left(BOUNDS, exact), len(BOUNDS) - 1)]
