"""Progress of long work, on stderr: bars at a terminal, lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from hsmvault.v1.resources_pb2 import Region


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


class Steps:
    """Numbered steps, and how the present one is getting on."""

    def __init__(self, bar: Progress, title: str) -> None:
        self._bar = bar
        self._title = title
        self._task = bar.add_task(title, total=None, detail="")
        self._step = ""

    def __call__(self, step: str, number: int, of: int) -> None:
        """Begin step `number` of `of`."""
        self._step = step
        # The bar is full when all steps are done, not when the last begins.
        self._bar.update(self._task, completed=number - 1, total=of, detail=step)
        self._line(f"{step} ({number}/{of})")

    def region(self, shown: Region, percent: int) -> None:
        """Tell of the region that the present step is about."""
        detail = _standing(shown, percent)
        self._bar.update(self._task, detail=f"{self._step}: {detail}")

    def _line(self, text: str) -> None:
        if not self._bar.console.is_terminal:
            self._bar.console.print(f"{self._title}: {text}", highlight=False)


@contextmanager
def steps(title: str) -> Iterator[Steps]:
    """Show numbered steps: gives what is to be told of each."""
    with _progress() as bar:
        yield Steps(bar, title)
        bar.update(bar.task_ids[0], completed=1, total=1, detail="done")


def _standing(shown: Region, percent: int) -> str:
    state = Region.State.Name(shown.state).lower().replace("_", " ")
    if shown.problem:
        return f"{state}: {shown.problem}"
    return f"{state} {percent} %" if shown.state == Region.PROVISIONING else state


@contextmanager
def region(title: str) -> Iterator[Callable[[Region, int], None]]:
    """Show where a region stands: gives what is to be told of each look."""
    with _progress() as bar:
        task = bar.add_task(title, total=100, detail="")
        last = ""

        def told(shown: Region, percent: int) -> None:
            nonlocal last
            detail = _standing(shown, percent)
            arrived = shown.state in {Region.SUCCEEDED, Region.PURGED}
            bar.update(task, completed=100 if arrived else percent, detail=detail)
            if not bar.console.is_terminal and detail != last:
                bar.console.print(f"{title}: {detail}", highlight=False)
            last = detail

        yield told


@contextmanager
def counted(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many are done, of nobody knows how many, and how many failed."""
    with _progress() as bar:
        task = bar.add_task(title, total=None, detail="")
        detail = "nothing to do"

        def told(done: int, failed: int) -> None:
            nonlocal detail
            detail = f"{done} done" + (f", {failed} of them failed" if failed else "")
            bar.update(task, detail=detail)

        yield told
        bar.update(task, completed=1, total=1)
        if not bar.console.is_terminal:
            bar.console.print(f"{title}: {detail}", highlight=False)
