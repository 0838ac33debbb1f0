"""A region that runs, as those see it who watch over it."""

import http.client
import json
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from hsmvault.regions.layout import PARTITIONS
from hsmvault.server.traces import ATTRIBUTES
from hsmvault.v1 import crypto_service_pb2
from tests.support.callers import USER, Callers, create, sign
from tests.support.regions import FREE, running_vault
from tests.support.served import refusal

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(300)]

CALLER = "canary-caller"
KEY = "canary-key"


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    """A region with a metrics port, and a caller with a key."""
    telemetry: dict[str, str | int] = {
        "metrics": FREE,
        "traces": "traces",
        "trace_one_in": 1,
    }
    with running_vault(
        tmp_path_factory.mktemp("watched"), telemetry=telemetry
    ) as vault:
        vault.grant(CALLER, USER)
        vault.north.wait_serving(manager=True)
        callers = Callers(vault)
        create(callers(CALLER), KEY)
        yield callers


@pytest.fixture
def metrics_port(call: Callers) -> int:
    listener = call.vault.north.config.telemetry.listener()
    assert listener is not None
    return listener[1]


def used(call: Callers) -> None:
    """Sign at every partition, in a batch, too, and be refused."""
    call.vault.north.wait_serving(manager=True)
    item = crypto_service_pb2.BatchItem(
        sign=crypto_service_pb2.SignRequest(
            name=f"keys/{KEY}", algorithm="ES256", digest=bytes(32)
        )
    )
    for partition in PARTITIONS:
        caller = call.afresh(CALLER, partition=partition)
        sign(caller, f"keys/{KEY}")
        caller.crypto.Batch(crypto_service_pb2.BatchRequest(items=[item] * 3))
        refusal(partial(sign, caller, "keys/nobody"))


def test_one_scrape_tells_of_all_processes_of_a_region(call: Callers) -> None:
    used(call)

    found = call.vault.north.scraped()

    up = {s.labels["process"]: s.value for s in found["hsmvault_up"]}
    assert up == dict.fromkeys((*PARTITIONS, "manager"), 1)
    calls = {
        (s.labels["process"], s.labels["method"], s.labels["code"]): s.value
        for s in found["hsmvault_calls_total"]
    }
    for process in PARTITIONS:
        assert calls[process, "CryptoService/Sign", "OK"] >= 1
        assert calls[process, "CryptoService/Sign", "NOT_FOUND"] >= 1
    assert all(s.labels["region"] == "north" for of in found.values() for s in of)
    assert sum(s.value for s in found["hsmvault_keys"]) == 1
    # Neither who asked nor for what.
    assert KEY not in str(found)
    assert CALLER not in str(found)
    served = {
        s.labels["process"]: s.value for s in found["hsmvault_serving_seconds_total"]
    }
    assert served.keys() == set(PARTITIONS)
    assert all(seconds > 0 for seconds in served.values())


def test_a_partition_that_is_down_is_shown_as_down(call: Callers) -> None:
    north = call.vault.north
    north.wait_serving(manager=True)
    call.vault.north.scraped()

    north.pause_partition("p1")
    found = call.vault.north.scraped()

    up = {s.labels["process"]: s.value for s in found["hsmvault_up"]}
    assert up == {"p0": 1, "p1": 0, "p2": 1, "manager": 1}
    north.wait_until(
        lambda: (
            next(
                s.value
                for s in call.vault.north.scraped()["hsmvault_restarts"]
                if s.labels["process"] == "p1"
            )
            == 1
        ),
        what="the supervisor to tell of a restart",
    )
    north.wait_serving(manager=True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/metrics/../secrets/p0.pin", 404),
        ("GET", "/metrics/", 404),
        ("POST", "/metrics", 501),
        ("PRI", "*", 501),
    ],
)
def test_the_metrics_port_gives_metrics_and_nothing_else(
    call: Callers, metrics_port: int, method: str, path: str, status: int
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", metrics_port, timeout=10)
    connection.putrequest(method, path)
    connection.endheaders()

    answer = connection.getresponse()

    assert answer.status == status
    assert b"hsmvault_" not in answer.read()
    connection.close()


def test_who_says_nothing_on_the_metrics_port_keeps_no_other_out(
    call: Callers, metrics_port: int
) -> None:
    silent = [socket.create_connection(("127.0.0.1", metrics_port)) for _ in range(3)]

    assert call.vault.north.scraped()["hsmvault_up"]
    for one in silent:
        one.close()


def test_the_metrics_port_is_no_door_to_the_vault(
    call: Callers, metrics_port: int
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{metrics_port}") as channel:
        ask: Any = channel.unary_unary("/hsmvault.v1.KeyService/ListKeys")
        with pytest.raises(grpc.RpcError):
            ask(b"", timeout=5)


# --- traces


def spans(directory: Path) -> list[dict[str, Any]]:
    """Every span that a region wrote, each with its attributes and its process."""
    found = []
    for path in directory.glob("*.jsonl"):
        assert path.stat().st_mode & 0o777 == 0o600
        for line in path.read_text().splitlines():
            (of,) = json.loads(line)["resourceSpans"]
            who = _plain(of["resource"]["attributes"])
            assert who["service.instance.id"] == path.stem
            for span in of["scopeSpans"][0]["spans"]:
                span["attributes"] = _plain(span["attributes"])
                found.append(span)
    return found


def _plain(attributes: list[dict[str, Any]]) -> dict[str, str]:
    return {one["key"]: one["value"]["stringValue"] for one in attributes}


def test_a_trace_shows_what_a_call_did_and_not_who_asked(call: Callers) -> None:
    used(call)
    directory = call.vault.north.layout.directory / "traces"
    sign_span: list[dict[str, Any]] = []

    def written() -> bool:
        sign_span[:] = [
            span
            for span in spans(directory)
            if span["name"] == "hsmvault.v1.CryptoService/Sign"
        ]
        return len(sign_span) >= 2 * len(PARTITIONS)

    call.vault.north.wait_until(written, what="spans")

    (signed, *_) = [s for s in sign_span if not s["status"]]
    children = [s for s in spans(directory) if s["parentSpanId"] == signed["spanId"]]
    assert {s["name"] for s in children} == {"hsm_operation"}
    assert {s["traceId"] for s in children} == {signed["traceId"]}
    assert signed["attributes"]["hsmvault.resource"] == f"/keys/{KEY}"
    (refused, *_) = [s for s in sign_span if s["status"]]
    assert refused["attributes"]["hsmvault.reason"] == "NOT_FOUND"
    assert all(s["attributes"].keys() <= ATTRIBUTES for s in spans(directory))
    for path in directory.iterdir():
        assert CALLER not in path.read_text()
        assert "127.0.0.1" not in path.read_text()


def test_what_cannot_be_trace_context_begins_a_trace_of_its_own(call: Callers) -> None:
    """Every field malformed, and far longer than any traceparent is."""
    caller = call.afresh(CALLER)
    call.vault.north.wait_serving()
    request = crypto_service_pb2.SignRequest(
        name=f"keys/{KEY}", algorithm="ES256", digest=bytes(32)
    )
    nothing = "00-" + "0" * 32 + "-" + "0" * 16 + "-01"
    for text in ("", "00", "ff" * 30, nothing, "-01", "0" * 8000 + "-01"):
        answer = caller.crypto.Sign(
            request, metadata=(("traceparent", text), ("traceparent", text)), timeout=20
        )
        assert answer.signature
