"""Thread pools whose queues end: what does not fit is refused, not kept waiting."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Seat:
    """What one call takes up of what its pool takes on."""

    def __init__(self, left: Callable[[], None]) -> None:
        self._left = left
        self._leaving = threading.Lock()
        self._taken = True

    def leave(self) -> None:
        """Make room for another one. From any thread; the first time counts."""
        with self._leaving:
            taken, self._taken = self._taken, False
        if taken:
            self._left()


class BoundedPool(ThreadPoolExecutor):
    """A thread pool that knows when it has taken on enough."""

    def __init__(self, threads: int, *, name: str, pending_max: int) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self._pending_max = pending_max
        self._pending = 0
        self._counting = threading.Lock()
        self._here = threading.local()

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
        seat = Seat(self._left)
        try:
            future = super().submit(self._run, seat, fn, *args, **kwargs)
        except RuntimeError:
            seat.leave()
            raise
        future.add_done_callback(lambda _future: seat.leave())
        return future

    @property
    def seat(self) -> Seat:
        """The seat of the call that asks, in its thread.

        Who leaves it before they end have the next one wait until their thread is free,
        where it would have been refused.
        """
        seat: Seat = self._here.seat
        return seat

    def _run(
        self, seat: Seat, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        self._here.seat = seat
        return fn(*args, **kwargs)

    def _left(self) -> None:
        with self._counting:
            self._pending -= 1
