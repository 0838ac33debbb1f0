"""Thread pools whose queues end: what does not fit is refused, not kept waiting."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class BoundedPool(ThreadPoolExecutor):
    """A thread pool that knows when it has taken on enough."""

    def __init__(self, threads: int, *, name: str, pending_max: int) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self._pending_max = pending_max
        self._pending = 0
        self._counting = threading.Lock()

    @property
    def pending(self) -> int:
        """How much is running and queued."""
        return self._pending

    @property
    def full(self) -> bool:
        """Whether as much is running and queued as there may be."""
        return self._pending >= self._pending_max

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Run `fn` when a thread is free."""
        with self._counting:
            self._pending += 1
        try:
            future = super().submit(fn, *args, **kwargs)
        except RuntimeError:
            self._done(None)
            raise
        future.add_done_callback(self._done)
        return future

    def _done(self, _future: Future[Any] | None) -> None:
        with self._counting:
            self._pending -= 1
