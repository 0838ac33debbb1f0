"""How the demonstration speaks: steps with their time, and claims that must be true."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.rule import Rule
from rich.table import Table


class ClaimFailed(Exception):
    """The demonstration claimed something that is not so."""


class Stage:
    """Prints what happens, for a person to read."""

    def __init__(self) -> None:
        # A terminal has a width of its own; a log gets one that fits.
        found = Console(highlight=False)
        self.console = (
            found if found.is_terminal else Console(highlight=False, width=100)
        )
        self.begun = time.monotonic()
        self.claims = 0

    @contextmanager
    def step(self, number: int, title: str) -> Iterator[None]:
        """Head a step, and end it with the time it took."""
        self.console.print()
        self.console.print(Rule(f"[bold]{number}[/]  {title}", align="left"))
        begun = time.monotonic()
        yield
        took = time.monotonic() - begun
        self.console.print(f"[dim]  step {number} took {took:.1f} s[/]")

    def say(self, text: str) -> None:
        self.console.print(f"  {text}")

    def claim(self, text: str, *, true: bool) -> None:
        """Print a claim with a tick, or stop the demonstration."""
        if not true:
            self.console.print(f"  [red bold]✗[/] {text}")
            raise ClaimFailed(text)
        self.claims += 1
        self.console.print(f"  [green]✓[/] {text}")

    def table(self, *headings: str) -> Table:
        return Table(*headings, box=None, padding=(0, 2, 0, 0), header_style="dim")

    def show(self, table: Table) -> None:
        from rich.padding import Padding

        self.console.print(Padding(table, (0, 0, 0, 2)))


def ms(seconds: float) -> str:
    """Write a short time."""
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
