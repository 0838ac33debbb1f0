"""The figures of one run, for people (a table) and for programs (JSON)."""

import dataclasses
import json
import statistics
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from scripts.benchmark.load import Measured


@dataclass(frozen=True, slots=True)
class Row:
    """One load: what each server made of it, round by round."""

    load: str
    algorithm: str
    vault: list[Measured]
    floor: list[Measured]
    noop: list[Measured]
    raw: float
    """The raw token's rate, one thread, no transport."""

    @property
    def of_floor(self) -> float:
        """Median over rounds of the vault's rate divided by the floor's."""
        return statistics.median(
            v.rate / f.rate for v, f in zip(self.vault, self.floor, strict=True)
        )

    @property
    def share_us(self) -> float:
        """The vault's own CPU per call: beyond what the floor needs."""
        return statistics.median(
            v.cpu_us - f.cpu_us for v, f in zip(self.vault, self.floor, strict=True)
        )


@dataclass(frozen=True, slots=True)
class BatchRow:
    """Batches of one algorithm, beside the raw token."""

    algorithm: str
    items: int
    """In each batch."""
    vault: list[Measured]
    """Per item, not per call."""
    raw: list[Measured]
    """The raw token in the same rounds, on the same core."""

    @property
    def of_raw(self) -> float:
        """The vault's items per second of CPU, divided by the raw token's.

        By CPU, since both keep one core busy, and others may want that core too.
        """
        return statistics.median(
            r.cpu_us / v.cpu_us for v, r in zip(self.vault, self.raw, strict=True)
        )


@dataclass(slots=True)
class Report:
    """All figures of one run."""

    rows: list[Row] = field(default_factory=list)
    batches: list[BatchRow] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """All of it, with every round."""
        return json.dumps(
            {
                "loads": [
                    dataclasses.asdict(row)
                    | {"of_floor": row.of_floor, "share_us": row.share_us}
                    for row in self.rows
                ],
                "batches": [
                    dataclasses.asdict(row) | {"of_raw": row.of_raw}
                    for row in self.batches
                ],
                "facts": self.facts,
            },
            indent=2,
        )

    def show(self, console: Console) -> None:
        """Print the tables."""
        table = Table(title="Calls per second (CPU of the server per call)")
        for heading in ("load", "algorithm", "vault", "floor", "no-op", "raw token"):
            table.add_column(heading, justify="right" if table.columns else "left")
        table.add_column("of floor", justify="right", style="bold")
        table.add_column("own share", justify="right")
        for row in self.rows:
            table.add_row(
                row.load,
                row.algorithm,
                *(_middle(rounds) for rounds in (row.vault, row.floor, row.noop)),
                f"{row.raw:,.0f}",
                f"{row.of_floor:.0%}",
                f"{row.share_us:.0f} µs",
            )
        console.print(table)
        table = Table(title="Items of batches per second (CPU of the server per item)")
        for heading in ("batch", "algorithm", "vault", "raw token", "of raw"):
            table.add_column(heading, justify="right" if table.columns else "left")
        for batch in self.batches:
            table.add_row(
                f"{batch.items} items",
                batch.algorithm,
                _middle(batch.vault),
                _middle(batch.raw),
                f"[bold]{batch.of_raw:.0%}[/bold]",
            )
        console.print(table)
        for name, figure in self.facts.items():
            console.print(f"  {name}: [bold]{figure}[/bold]")


def _middle(rounds: list[Measured]) -> str:
    rate = statistics.median(m.rate for m in rounds)
    cpu = statistics.median(m.cpu_us for m in rounds)
    return f"{rate:,.0f} ({cpu:.0f} µs)"
