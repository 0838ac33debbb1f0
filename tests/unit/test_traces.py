"""Which calls are traced, and what becomes of their spans."""

import json
from pathlib import Path
from typing import Any

import pytest

from hsmvault import metrics, tracing
from hsmvault.api.account import Account
from hsmvault.server.traces import ATTRIBUTES, FILE_BYTES_MAX, TraceFile, Tracer
from hsmvault.tracing import STEPS_MAX, timed

SIGN = "/hsmvault.v1.CryptoService/Sign"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
WHO = {"service.namespace": "north", "service.instance.id": "p0"}


def account(code: str = "OK", reason: str = "") -> Account:
    told = Account(SIGN, "ipv4:10.9.8.7:1")
    told.principal, told.resource = "CN=canary", "/keys/payroll"
    told.end(code, reason)
    return told


def traced(
    tmp_path: Path, *sent: str, one_in: int = 1, steps: int = 1
) -> list[dict[str, Any]]:
    """Answer a call for each traceparent that was sent; every span of them."""
    path = tmp_path / "traces" / "p0.jsonl"
    tracer = Tracer(TraceFile(path), one_in=one_in, who=WHO)
    for text in sent:
        tracer.begin(SIGN, text)
        for _ in range(steps):
            with timed(metrics.HSM_SECONDS, "using"):
                pass
        tracer(account())
        assert tracing.current() is None
    tracer.close()
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    scopes = [line["resourceSpans"][0]["scopeSpans"][0] for line in lines]
    return [span for scope in scopes for span in scope["spans"]]


def test_one_call_in_so_many_is_traced(tmp_path: Path) -> None:
    spans = traced(tmp_path, *[""] * 10, one_in=4)

    assert [s["name"] for s in spans if not s["parentSpanId"]] == (
        ["hsmvault.v1.CryptoService/Sign"] * 3
    )


def test_a_caller_decides_for_its_own_trace(tmp_path: Path) -> None:
    spans = traced(
        tmp_path,
        f"00-{TRACE}-{SPAN}-03",
        f"00-{TRACE}-{SPAN}-00",
        f"00-{TRACE}-{SPAN}-zz",
        one_in=10**9,
    )

    child, call = spans
    assert (call["traceId"], call["parentSpanId"], call["kind"]) == (TRACE, SPAN, 2)
    assert (child["traceId"], child["parentSpanId"]) == (TRACE, call["spanId"])
    assert int(call["startTimeUnixNano"]) <= int(child["startTimeUnixNano"])


@pytest.mark.parametrize(
    "text",
    [
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        "-01",
        "x" * 40 + "-01",
        f"00-{TRACE[:31]}\n-{SPAN}-01",
    ],
)
def test_what_is_no_trace_context_begins_a_trace_of_its_own(
    tmp_path: Path, text: str
) -> None:
    _, call = traced(tmp_path, text)

    assert call["parentSpanId"] == ""
    assert call["traceId"] not in {TRACE, "0" * 32}


def test_a_batch_does_not_make_a_thousand_spans(tmp_path: Path) -> None:
    assert len(traced(tmp_path, "", steps=1000)) == STEPS_MAX + 1


def test_a_span_says_what_the_table_allows_and_not_who_asked(tmp_path: Path) -> None:
    path = tmp_path / "p0.jsonl"
    tracer = Tracer(TraceFile(path), one_in=1, who=WHO)
    tracer.begin(SIGN, "")
    tracer(account("PERMISSION_DENIED", "ACCESS_DENIED"))
    tracer.close()

    text = path.read_text()
    (request,) = map(json.loads, text.splitlines())
    (span,) = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    said = {a["key"]: a["value"]["stringValue"] for a in span["attributes"]}
    assert said == {
        "rpc.system": "grpc",
        "rpc.method": SIGN,
        "rpc.grpc.status_code": "PERMISSION_DENIED",
        "hsmvault.resource": "/keys/payroll",
        "hsmvault.reason": "ACCESS_DENIED",
    }
    assert said.keys() <= ATTRIBUTES
    assert span["status"] == {"code": 2}
    assert "canary" not in text
    assert "10.9.8.7" not in text


def test_a_full_disk_costs_spans_and_no_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told once, until it works again."""
    path = tmp_path / "traces"
    path.write_text("no directory")
    tracer = Tracer(TraceFile(path / "p0.jsonl"), one_in=1, who=WHO)

    for _ in range(2):
        tracer.begin(SIGN, "")
        tracer(account())
        tracer._provider.force_flush()
    tracer.close()

    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [one["event"] for one in told] == ["traces.dropped"]


def test_a_file_that_is_full_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "traces" / "p0.jsonl"
    traced(tmp_path, "")
    with path.open("r+b") as file:
        file.truncate(FILE_BYTES_MAX + 1)

    assert traced(tmp_path, "")

    aside = path.with_suffix(".jsonl.1")
    assert aside.stat().st_size > FILE_BYTES_MAX
    assert {p.stat().st_mode & 0o777 for p in (path, aside)} == {0o600}


def test_a_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    """Whoever may write in the directory must not have us write elsewhere."""
    precious = tmp_path / "precious"
    precious.write_text("")
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces/p0.jsonl").symlink_to(precious)

    traced(tmp_path, "")

    assert precious.read_text() == ""
