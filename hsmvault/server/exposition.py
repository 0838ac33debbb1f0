"""Samples as Prometheus reads them, with the region and the process as labels."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from hsmvault.metrics import Kind, Metric, Sample

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class _Gathered(Collector):
    def __init__(self, region: str, samples: Mapping[str, Iterable[Sample]]) -> None:
        self._region = region
        self._samples = samples

    def collect(self) -> Iterator[Family]:
        by_metric = defaultdict(list)
        for process, samples in self._samples.items():
            for one in samples:
                by_metric[one.metric].append((process, one))
        for metric, found in by_metric.items():
            family = _family(metric)
            for process, one in found:
                _add(family, (self._region, process, *one.labels), one)
            yield family


def exposition(region: str, samples: Mapping[str, Iterable[Sample]]) -> bytes:
    """Write a region's samples, by process, in the text format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gathered(region, samples))
    return generate_latest(registry)


def _family(metric: Metric) -> Family:
    labels = ("region", "process", *metric.labels)
    match metric.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(metric.name, metric.says, labels=labels)
        case Kind.GAUGE:
            return GaugeMetricFamily(metric.name, metric.says, labels=labels)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(metric.name, metric.says, labels=labels)


def _add(family: Family, labels: tuple[str, ...], one: Sample) -> None:
    if isinstance(family, HistogramMetricFamily):
        bounds = [*map(str, one.metric.buckets), "+Inf"]
        family.add_metric(
            labels,
            list(zip(bounds, accumulate(one.buckets), strict=True)),
            one.value,
        )
    else:
        family.add_metric(labels, one.value)
