"""What is counted in any thread is there for whoever collects, and nothing is named."""

import re
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hsmvault import metrics, tracing
from hsmvault.api.account import Account, Authentication, Item
from hsmvault.api.measuring import measured
from hsmvault.metrics import METRICS, Kind, Metric, Sample
from hsmvault.server.exposition import exposition
from hsmvault.tracing import Trace, timed

SIGN = "/hsmvault.v1.CryptoService/Sign"


def total(metric: Metric, *labels: str) -> float:
    """What was counted so far; of a histogram, how often."""
    return sum(
        sum(one.buckets) if one.buckets else one.value
        for one in metrics.collected()
        if (one.metric, one.labels) == (metric, labels)
    )


def account(method: str = SIGN, code: str = "OK", reason: str = "") -> Account:
    return Account(
        method=method,
        duration_ns=2_000_000,
        principal="CN=canary-principal",
        authentication=Authentication.MTLS,
        peer="ipv4:10.9.8.7:1",
        via_region="",
        resource="/keys/canary-key",
        version="",
        request_id="",
        position="",
        code=code,
        reason=reason,
        facts={},
        items=[Item(SIGN, "v", "OK", "", {})] * 3,
    )


def test_what_threads_count_is_added_up_also_of_those_that_ended() -> None:
    before = total(metrics.KEY_MISSES)
    stay, counted = threading.Event(), threading.Barrier(3)

    def work(number: int, *, ends: bool) -> None:
        for _ in range(number):
            metrics.count(metrics.KEY_MISSES)
        counted.wait()
        if not ends:
            stay.wait()

    threads = [
        threading.Thread(target=work, args=(1000,), kwargs={"ends": True}),
        threading.Thread(target=work, args=(234,), kwargs={"ends": False}, daemon=True),
    ]
    for thread in threads:
        thread.start()
    counted.wait()
    threads[0].join()

    # Twice: what an ended thread left is taken over once.
    assert total(metrics.KEY_MISSES) - before == 1234
    assert total(metrics.KEY_MISSES) - before == 1234
    stay.set()
    threads[1].join()


def test_an_observation_is_in_the_bucket_whose_bound_it_does_not_exceed() -> None:
    exactly = metrics.HSM_SECONDS.buckets[2]
    mine = "test of buckets"
    for seconds in (exactly, exactly * 1.01, 1e9):
        metrics.observe(metrics.HSM_SECONDS, seconds, mine)

    (found,) = [one for one in metrics.collected() if one.labels == (mine,)]
    assert [n for n, hits in enumerate(found.buckets) if hits] == [2, 3, 15]
    assert found.value == pytest.approx(1e9, rel=0.01)


def test_a_call_is_counted_by_its_rpc_status_and_reason_and_by_nothing_else() -> None:
    calls = total(metrics.CALLS, "CryptoService/Sign", "NOT_FOUND")
    items = total(metrics.BATCH_ITEMS, "CryptoService/Sign", "OK")
    reasons = total(metrics.REFUSALS, "NOT_FOUND")

    measured(account(code="NOT_FOUND", reason="NOT_FOUND"))

    assert total(metrics.CALLS, "CryptoService/Sign", "NOT_FOUND") == calls + 1
    assert total(metrics.BATCH_ITEMS, "CryptoService/Sign", "OK") == items + 3
    assert total(metrics.REFUSALS, "NOT_FOUND") == reasons + 1
    assert "canary" not in repr(metrics.collected())


def test_nobody_makes_series_by_what_they_send() -> None:
    """A region may forward what it likes, and refuse by reasons of its own."""
    measured(account("/hsmvault.v1.Made/Up", "OK", "REASON"))
    before = len(metrics.collected())
    for number in range(100):
        measured(account(f"/hsmvault.v1.Made/Up{number}", "OK", f"REASON_{number}"))

    assert len(metrics.collected()) == before


def test_every_metric_is_named_and_explained_by_prometheus_rules() -> None:
    assert METRICS
    for name, metric in METRICS.items():
        assert re.fullmatch(r"hsmvault_[a-z_]+", name)
        assert metric.says.endswith(".")
        assert (metric.kind is Kind.COUNTER) == name.endswith("_total")
        assert (metric.kind is Kind.HISTOGRAM) == bool(metric.buckets)
        assert not {"region", "process"} & set(metric.labels)
        assert not {"principal", "key", "resource", "peer"} & set(metric.labels)


def test_samples_are_written_as_prometheus_reads_them() -> None:
    text = exposition(
        "north",
        {
            "p0": [
                Sample(metrics.CALLS, ("CryptoService/Sign", "OK"), 7),
                Sample(metrics.CALL_SECONDS, ("x",), 2.5, (1, 2, *[0] * 13, 4)),
            ],
            "p1": [Sample(metrics.UP, value=0), Sample(metrics.CALLS, ("x", "OK"), 1)],
        },
    ).decode()

    found = {f.name: f for f in text_string_to_metric_families(text)}
    assert text.count("# TYPE hsmvault_calls_total counter") == 1
    assert [s.value for s in found["hsmvault_calls"].samples] == [7, 1]
    assert found["hsmvault_up"].samples[0].labels == {
        "region": "north",
        "process": "p1",
    }
    histogram = {
        (s.name.removeprefix("hsmvault_call_seconds"), s.labels.get("le", "")): s.value
        for s in found["hsmvault_call_seconds"].samples
    }
    assert histogram["_bucket", "0.00025"] == 3
    assert histogram["_bucket", "10.0"] == 3
    assert histogram["_bucket", "+Inf"] == histogram["_count", ""] == 7
    assert histogram["_sum", ""] == 2.5


def test_a_step_of_a_traced_call_is_noted_and_of_no_other() -> None:
    trace = Trace("00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    tracing.enter(trace)
    with pytest.raises(ValueError, match="on purpose"), timed(metrics.HSM_SECONDS, "x"):
        raise ValueError("on purpose")
    tracing.enter(None)
    with timed(metrics.HSM_SECONDS, "x"):
        pass

    (step,) = trace.steps
    assert (step.name, step.how, step.failed) == ("hsm_operation", "x", True)
    assert step.began <= step.ended
