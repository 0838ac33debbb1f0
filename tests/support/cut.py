"""Cutting a region off from the others, for as long as a test wants."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.regions import LiveRegion, alive


@contextmanager
def cut_off(region: LiveRegion) -> Iterator[None]:
    """Kill the region's pool manager, and keep it from coming back meanwhile.

    Its supervisor is stopped: nobody starts the manager again. The partitions serve on.
    """
    manager = int(region.partition("manager")["pid"])
    os.kill(region.pid, signal.SIGSTOP)
    try:
        os.kill(manager, signal.SIGKILL)
        region.wait_until(lambda: not alive(manager), what="the manager to be dead")
        yield
    finally:
        os.kill(region.pid, signal.SIGCONT)
    region.wait_until(
        lambda: (
            region.partition("manager")["pid"] not in {None, manager}
            and region.partition("manager")["state"] == "serving"
        ),
        what="the manager to come back",
    )
