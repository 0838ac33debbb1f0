"""Traced calls as OpenTelemetry spans, in files that its Collector reads.

One line is one ExportTraceServiceRequest in OTLP's JSON (opentelemetry-proto), so the
Collector's otlpjsonfile receiver takes them anywhere. A span says which RPC, how it
ended, which resource, and how long its steps took: no principal, no address and nothing
else that a caller sent.
"""

import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from hsmvault import tracing
from hsmvault.api.account import OK, Account
from hsmvault.config import Telemetry
from hsmvault.telemetry import Event, report
from hsmvault.tracing import TRACEPARENT, Trace

ATTRIBUTES: Final = frozenset(
    {
        "rpc.system",
        "rpc.method",
        "rpc.grpc.status_code",
        "hsmvault.reason",
        "hsmvault.resource",
        "hsmvault.how",
    }
)
"""All that a span ever says; docs/observability.md explains them."""
FILE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Then the file is set aside, and the one set aside before it is dropped."""
_SAMPLED: Final = 1
_QUEUE: Final = 2048
_BATCH: Final = 256
_DELAY_MS: Final = 1000


class Tracer:
    """api.ports.Tracing, and the observer that ends what it began."""

    def __init__(
        self, exporter: SpanExporter, *, one_in: int, who: Mapping[str, str]
    ) -> None:
        """Trace one call in so many, and every call whose caller traces it."""
        # What it has to say to us it says by what `export` returns.
        logging.getLogger("opentelemetry").disabled = True
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            # Not from the environment: whoever sets variables there means another.
            resource=Resource({"service.name": "hsmvault", **who}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=_QUEUE,
                max_export_batch_size=_BATCH,
                schedule_delay_millis=_DELAY_MS,
            )
        )
        self._tracer = self._provider.get_tracer("hsmvault")
        self._parents = TraceContextTextMapPropagator()
        self._one_in = one_in
        self._turn = count()
        self._local = threading.local()

    def begin(self, method: str, traceparent: str) -> None:
        """Trace the call that this thread begins to answer, if it is one of those."""
        tracing.enter(None)
        if traceparent:
            if not _sampled(traceparent):
                return
        elif next(self._turn) % self._one_in:
            return
        span = self._tracer.start_span(
            method.removeprefix("/"),
            context=self._parents.extract({TRACEPARENT: traceparent}),
            kind=SpanKind.SERVER,
        )
        sent: dict[str, str] = {}
        self._parents.inject(sent, set_span_in_context(span))
        self._local.span = span
        tracing.enter(Trace(sent.get(TRACEPARENT, "")))

    def __call__(self, account: Account) -> None:
        """End the span of a call that was answered; api.account.Observer."""
        trace = tracing.current()
        if trace is None:
            return
        tracing.enter(None)
        span: Span = self._local.span
        context = set_span_in_context(span)
        for step in trace.steps:
            child = self._tracer.start_span(
                step.name, context=context, start_time=step.began
            )
            child.set_attribute("hsmvault.how", step.how)
            if step.failed:
                child.set_status(StatusCode.ERROR)
            child.end(step.ended)
        span.set_attribute("rpc.system", "grpc")
        span.set_attribute("rpc.method", account.method)
        span.set_attribute("rpc.grpc.status_code", account.code)
        span.set_attribute("hsmvault.resource", account.resource)
        if account.code != OK:
            span.set_attribute("hsmvault.reason", account.reason)
            span.set_status(StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Write what is still to be written."""
        self._provider.shutdown()


def _sampled(traceparent: str) -> bool:
    """Tell whether the caller traces, by the flags at the end."""
    try:
        return bool(int(traceparent[-2:], 16) & _SAMPLED)
    except ValueError:
        return False


class TraceFile(SpanExporter):
    """Appends spans to a file that only this user reads; never in a call's way."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened before there is something to write."""
        self._path = path
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write a batch as one line. What cannot be written is dropped, and told."""
        try:
            self._append(json.dumps(_request(spans)).encode() + b"\n")
        except OSError as error:
            if not self._failing:
                report(Event.TRACES_DROPPED, path=str(self._path), problem=str(error))
            self._failing = True
            return SpanExportResult.FAILURE
        self._failing = False
        return SpanExportResult.SUCCESS

    def _append(self, line: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._path.exists() and self._path.stat().st_size > FILE_BYTES_MAX:
            self._path.replace(self._path.with_suffix(".jsonl.1"))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with os.fdopen(os.open(self._path, flags, 0o600), "ab", buffering=0) as file:
            file.write(line)


def tracer_of(settings: Telemetry, *, region: str, process: str) -> Tracer:
    """Return what traces the calls of a process, into a file of its own."""
    assert settings.traces is not None, "asked only where calls are traced"
    return Tracer(
        TraceFile(settings.traces / f"{process}.jsonl"),
        one_in=settings.trace_one_in,
        who={"service.namespace": region, "service.instance.id": process},
    )


def _request(spans: Sequence[ReadableSpan]) -> Mapping[str, Any]:
    """Write spans of one process as an ExportTraceServiceRequest."""
    resource = spans[0].resource.attributes if spans else {}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [
                    {"scope": {"name": "hsmvault"}, "spans": [_span(s) for s in spans]}
                ],
            }
        ]
    }


def _span(span: ReadableSpan) -> Mapping[str, Any]:
    context, parent = span.get_span_context(), span.parent
    assert context is not None, "a span that ended has its ids"
    failed = span.status.status_code is StatusCode.ERROR
    return {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "parentSpanId": f"{parent.span_id:016x}" if parent else "",
        "name": span.name,
        # SPAN_KIND_SERVER and SPAN_KIND_INTERNAL; STATUS_CODE_ERROR and _UNSET.
        "kind": 2 if span.kind is SpanKind.SERVER else 1,
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": _attributes(span.attributes or {}),
        "status": {"code": 2} if failed else {},
    }


def _attributes(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        {"key": key, "value": {"stringValue": str(value)}}
        for key, value in found.items()
    ]
