"""Metrics as text, in the format of Prometheus or of OpenMetrics.

The formats are those of ``prometheus_client``, of which nothing else counts or measures.
Runs in: a thread, on copies of the values.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from electrumx.server.metrics.catalogue import (
    COUNTER,
    HISTOGRAM,
    INFO,
    Family,
    HistogramValue,
    Sample,
)
from electrumx.server.metrics.process import ProcessFigures


def _buckets(value: HistogramValue) -> list[tuple[str, float]]:
    """Return (upper bound as text, values up to it)."""
    total, buckets = 0, []
    for bound, count in zip((*value.bounds, math.inf), value.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == math.inf else repr(float(bound)), float(total)))
    return buckets


def _metric_of(family: Family) -> Metric:
    metric, samples = family
    name, text, labels = metric.name, metric.help, metric.labels
    if metric.kind == HISTOGRAM:
        return _histogram_of(HistogramMetricFamily(name, text, labels=labels), samples)
    if metric.kind == INFO:
        info = InfoMetricFamily(name, text)
        for values, _one in samples:
            info.add_metric([], dict(zip(labels, values, strict=True)))
        return info
    family_class = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
    result = family_class(name, text, labels=labels)
    for values, value in samples:
        assert not isinstance(value, HistogramValue)
        result.add_metric(values, value)
    return result


def _histogram_of(result: HistogramMetricFamily, samples: Sequence[Sample]) -> Metric:
    for values, value in samples:
        assert isinstance(value, HistogramValue)
        result.add_metric(values, _buckets(value), value.total)
    return result


class ValuesCollector(Collector):
    """Gives the registry the values of one moment."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield each metric."""
        return map(_metric_of, self._families)


class Exposition:
    """Writes values, and those of the process, as text."""

    def __init__(self) -> None:
        self._process = CollectorRegistry()
        ProcessFigures(self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)

    def text(self, families: Iterable[Family], accept: str) -> tuple[bytes, str]:
        """Return (text, its content type) in the format that an Accept header prefers."""
        encode, content_type = choose_encoder(accept)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(ValuesCollector(families))
        registry.register(self._process)
        return encode(registry), content_type
