"""Samples of metrics to messages of the local protocol, and back."""

from collections.abc import Iterable

from hsmvault.local.v1 import local_service_pb2 as pb
from hsmvault.metrics import METRICS, Sample


def message(samples: Iterable[Sample]) -> pb.Measures:
    """Write what a process has measured."""
    return pb.Measures(
        samples=[
            pb.Measures.Sample(
                metric=one.metric.name,
                labels=one.labels,
                value=one.value,
                buckets=one.buckets,
            )
            for one in samples
        ]
    )


def samples(measures: pb.Measures) -> list[Sample]:
    """Read it back; what another release measures is left out."""
    return [
        Sample(METRICS[one.metric], tuple(one.labels), one.value, tuple(one.buckets))
        for one in measures.samples
        if one.metric in METRICS
    ]
