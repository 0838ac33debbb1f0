"""What docs/observability.md and the Grafana board say is what the code measures."""

import json
import re
from collections.abc import Iterator
from typing import Any

from hsmvault.metrics import METRICS, Kind
from hsmvault.server.traces import ATTRIBUTES
from hsmvault.telemetry import LEVELS, Event
from tests.architecture.house import HOUSE

DOCUMENT = HOUSE / "docs/observability.md"
BOARD = HOUSE / "docs/grafana/hsmvault.json"
ALWAYS = {"region", "process", "le"}
MUST_SHOW = {
    "hsmvault_calls_total",
    "hsmvault_call_seconds",
    "hsmvault_up",
    "hsmvault_replication_lag_seconds",
    "hsmvault_epoch",
    "hsmvault_refusals_total",
    "hsmvault_audit_records_total",
    "hsmvault_audit_writable",
}


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the document's table with this first heading, by their first cell."""
    text = DOCUMENT.read_text().partition(f"| {heading} |")[2]
    rows = {}
    for line in text.splitlines()[2:]:
        if not line.startswith("|"):
            break
        first, *rest = (cell.strip() for cell in line.strip("|").split("|"))
        rows[first.strip("`")] = rest
    return rows


def test_every_event_is_explained_with_its_level() -> None:
    """Add a row to the table in docs/observability.md when you add an event."""
    rows = table("event")

    assert rows.keys() == set(map(str, Event))
    assert {event: row[0] for event, row in rows.items()} == {
        str(event): LEVELS.get(event, "info") for event in Event
    }
    assert all(row[1].endswith(".") for row in rows.values())


def test_every_metric_is_explained_with_its_kind_and_labels() -> None:
    """Add a row to the table in docs/observability.md when you add a metric."""
    assert {name: row[:2] for name, row in table("metric").items()} == {
        metric.name: [str(metric.kind), ", ".join(f"`{x}`" for x in metric.labels)]
        for metric in METRICS.values()
    }


def test_every_attribute_of_a_span_is_explained() -> None:
    assert table("attribute").keys() == ATTRIBUTES


def _panels() -> list[dict[str, Any]]:
    return [p for p in json.loads(BOARD.read_text())["panels"] if p["type"] != "row"]


def _expressions() -> Iterator[str]:
    for panel in _panels():
        for target in panel["targets"]:
            yield target["expr"]


def named(expression: str) -> set[str]:
    """The metrics that an expression of PromQL names."""
    found = set(re.findall(r"\bhsmvault_[a-z_]+", expression))
    return {
        re.sub(r"_(bucket|count|sum)$", "", name) if name not in METRICS else name
        for name in found
    }


def test_the_board_names_metrics_that_exist_by_labels_that_they_have() -> None:
    for expression in _expressions():
        metrics = named(expression)
        assert metrics
        assert metrics <= METRICS.keys(), expression
        labels = {label for name in metrics for label in METRICS[name].labels} | ALWAYS
        used = set(re.findall(r"([a-z_]+)=~?\"", expression))
        for group in re.findall(r"\bby \(([^)]*)\)", expression):
            used |= {label.strip() for label in group.split(",")}
        assert used <= labels, expression
        for name in metrics:
            histogram = METRICS[name].kind is Kind.HISTOGRAM
            assert histogram == bool(re.search(rf"{name}_(bucket|count)", expression))


def test_the_board_shows_what_an_operator_is_woken_for() -> None:
    shown = {name for expression in _expressions() for name in named(expression)}

    assert shown >= MUST_SHOW
    # What is worth measuring is worth a look.
    assert shown == METRICS.keys()


def test_the_board_can_be_imported() -> None:
    board = json.loads(BOARD.read_text())

    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    variables = {one["name"] for one in board["templating"]["list"]}
    assert variables == {"datasource", "region"}
    used = set(re.findall(r"\$\{?([a-z]+)\}?", BOARD.read_text()))
    assert used == variables
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["title"]
