"""Metrics as text, in the format of Prometheus or of OpenMetrics.

The formats are those of ``prometheus_client``, of which nothing else counts or measures.  It checks and
escapes each name and label of each line, which takes 10 to 20 ms for a thousand lines; so a cache
keeps each line up to its value, which this module writes.

Runs in: a thread, on copies of the values.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

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
from prometheus_client.utils import floatToGoString

from electrumx.server.metrics.catalogue import (
    COUNTER,
    HISTOGRAM,
    INFO,
    Family,
    HistogramValue,
    Sample,
    Value,
)
from electrumx.server.metrics.process import ProcessFigures


def _buckets(value: HistogramValue) -> list[tuple[str, float]]:
    """Return (upper bound as text, values up to it)."""
    bounds = [*map(repr, map(float, value.bounds)), "+Inf"]
    return list(zip(bounds, map(float, accumulate(value.counts)), strict=True))


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


#: of a value, as the library writes it
number_text: Callable[[float], str] = floatToGoString


def _values(value: Value) -> list[float]:
    """Return the values of the lines of a sample, in their order."""
    if not isinstance(value, HistogramValue):
        return [value]
    counts = list(accumulate(value.counts))
    return [*counts, counts[-1], value.total]


class Format:
    """Writes families of metrics, line by line, as ``prometheus_client`` does."""

    def __init__(self, encode: Callable[[Collector], bytes]) -> None:
        """``encode(collector)`` is the encoder of that library."""
        self._encode = encode
        # Name of a metric -> its comments
        self._comments: dict[str, str] = {}
        # Name of a metric, values of its labels -> each of their lines up to its value.  Labels are
        # bounded, and so are these.
        self._starts: dict[tuple[str, tuple[str, ...]], list[str]] = {}

    def text(self, families: Iterable[Family]) -> str:
        """Return families as text."""
        parts = []
        for metric, samples in families:
            if metric.name not in self._comments:
                self._comments[metric.name] = self._parts(Family(metric, []))[0]
            parts.append(self._comments[metric.name])
            for sample in samples:
                labels, value = sample
                starts = self._starts.get((metric.name, labels))
                if starts is None:
                    starts = self._parts(Family(metric, [sample]))[1]
                    self._starts[metric.name, labels] = starts
                for start, number in zip(starts, _values(value), strict=True):
                    parts.append(f"{start}{number_text(number)}\n")
        return "".join(parts)

    def _parts(self, family: Family) -> tuple[str, list[str]]:
        """Return (comments, lines up to the value) of a family."""
        text = self._encode(ValuesCollector([family])).decode().removesuffix("# EOF\n")
        lines = [line for line in text.split("\n") if line]
        comments = "".join(f"{line}\n" for line in lines if line.startswith("#"))
        starts = [line[: line.rindex(" ") + 1] for line in lines if not line.startswith("#")]
        return comments, starts


class Exposition:
    """Writes values, and those of the process, as text."""

    def __init__(self) -> None:
        self._process = CollectorRegistry()
        ProcessFigures(self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)
        # Type of content -> its format
        self._formats: dict[str, Format] = {}

    def text(self, families: Iterable[Family], accept: str) -> tuple[bytes, str]:
        """Return (text, its content type) in the format that an Accept header prefers."""
        encode, content_type = choose_encoder(accept)
        if content_type not in self._formats:
            self._formats[content_type] = Format(encode)
        text = self._formats[content_type].text(families)
        return text.encode() + encode(self._process), content_type
