"""Keeping a region from the others, or from its supervisor, for as long as wanted."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.regions import LiveRegion, alive


@contextmanager
def unsupervised(region: LiveRegion) -> Iterator[None]:
    """Stop the region's supervisor: nobody starts what dies or hangs meanwhile."""
    os.kill(region.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(region.pid, signal.SIGCONT)


@contextmanager
def cut_off(region: LiveRegion) -> Iterator[None]:
    """Kill the region's pool manager, and keep it from coming back meanwhile.

    The partitions serve on.
    """
    manager = int(region.partition("manager")["pid"])
    with unsupervised(region):
        os.kill(manager, signal.SIGKILL)
        region.wait_until(lambda: not alive(manager), what="the manager to be dead")
        yield
    region.wait_until(
        lambda: (
            region.partition("manager")["pid"] not in {None, manager}
            and region.partition("manager")["state"] == "serving"
        ),
        what="the manager to come back",
    )
