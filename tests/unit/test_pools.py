"""Bounded pools: what they have taken on, and what no longer counts."""

import threading

from hsmvault.api.pools import BoundedPool


def test_what_runs_counts_until_it_ends() -> None:
    go_on = threading.Event()
    with BoundedPool(1, name="test", pending_max=2) as pool:
        running = [pool.submit(go_on.wait) for _ in range(2)]
        full = pool.full
        go_on.set()
        for one in running:
            one.result()

    assert full
    assert pool.pending == 0


def test_what_left_its_seat_does_not_count_though_it_runs() -> None:
    """And is counted off once, however often it leaves, and though it ends, too."""
    left, go_on = threading.Event(), threading.Event()

    def leave_and_stay() -> None:
        seat = pool.seat
        seat.leave()
        seat.leave()
        left.set()
        go_on.wait()

    with BoundedPool(1, name="test", pending_max=1) as pool:
        pool.submit(leave_and_stay)
        left.wait()
        full = pool.full
        # It has room, and is run once the thread is free.
        after = pool.submit(lambda: pool.pending)
        full_again = pool.full
        go_on.set()

    assert (full, full_again) == (False, True)
    assert after.result() == 1
    assert pool.pending == 0


def test_what_is_called_off_before_it_runs_does_not_count() -> None:
    go_on = threading.Event()
    with BoundedPool(1, name="test", pending_max=2) as pool:
        pool.submit(go_on.wait)
        pool.submit(go_on.wait).cancel()
        pending = pool.pending
        go_on.set()

    assert pending == 1
