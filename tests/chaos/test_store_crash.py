"""Power is cut between any two instructions of a writing process.

A child writes, and reports each write that was acknowledged. It is killed at moments
that a seed decides, started again, and goes on until a thousand are done.
"""

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from hsmvault.model.log import Kind
from hsmvault.store.store import Store
from tests.support.stored import north

WRITES: Final = 1000
KILLS: Final = 8
HOUSE: Final = Path(__file__).parents[2]

_WRITER: Final = """
import sys
from hsmvault.store.store import Store
from tests.support.stored import Author, change, key, mark, sealed, version

store = Store.open(sys.argv[1], region="north")
author = Author(store)
for n in range(int(sys.argv[2])):
    if store.request("CN=alice", mark().method, f"r{n}"):
        continue
    made = key(f"k{n}")
    first = version(made)
    rows = sealed(first), sealed(first, "south")
    at = author.commit(change(made), change(first, *rows), request=mark(f"r{n}"))
    print("made", n, at, first.version, flush=True)
    if n % 3 == 0:
        author.purge(made, first)
        print("purged", n, store.head().position, first.version, flush=True)
print("done", flush=True)
"""


def write_until(path: Path, kill_after: int, delay: float) -> list[list[str]]:
    """Let a writer run, kill it after so many reports and a moment more."""
    command = [sys.executable, "-c", _WRITER, f"sqlite:///{path}", str(WRITES)]
    with subprocess.Popen(
        command, cwd=HOUSE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        reports = []
        for line in child.stdout:
            reports.append(line.split())
            if len(reports) == kill_after:
                time.sleep(delay)
                child.kill()
    assert child.returncode == (-9 if kill_after else 0)
    return reports


@pytest.mark.parametrize("seed", (20261122,))
def test_no_acknowledged_write_is_lost_and_no_half_write_is_seen(
    tmp_path: Path, seed: int
) -> None:
    moments = random.Random(seed)
    path = tmp_path / "vault.db"
    north(path).close()

    acknowledged: list[list[str]] = []
    for _ in range(KILLS):
        after = moments.randint(1, WRITES // KILLS)
        acknowledged += write_until(path, after, moments.uniform(0, 0.004))
        with Store.open(f"sqlite:///{path}", region="north") as store:
            assert_whole(store)
    acknowledged += write_until(path, 0, 0)

    assert acknowledged.pop() == ["done"]
    with Store.open(f"sqlite:///{path}", region="north") as store:
        assert_whole(store)
        assert_kept(store, acknowledged)


def assert_whole(store: Store) -> None:
    """No write is there by halves: entries, state, wrapped keys and marks agree."""
    entries = store.entries(4, limit=100_000)
    made = [e for e in entries if e.kind is Kind.KEY_VERSION]
    ended = [e for e in entries if e.kind is Kind.TOMBSTONE]
    alive = len(made) - len(ended)
    kinds = [e.kind for e in entries if e.kind is not Kind.TOMBSTONE]
    assert kinds == [Kind.KEY, Kind.KEY_VERSION] * len(made)
    assert store.verify_chain(limit=100_000) == store.head()
    assert store.count(Kind.KEY) == store.count(Kind.KEY_VERSION) == alive
    assert store.count_wrapped("north") == store.count_wrapped("south") == alive
    assert store.count(Kind.TOMBSTONE) == len(ended)
    marks = [e.request.request_id for e in entries if e.request]
    assert marks == [f"r{n}" for n in range(len(made))]


def assert_kept(store: Store, acknowledged: list[list[str]]) -> None:
    """Everything that was reported is there, at the position that was reported."""
    entries = {str(e.position): e for e in store.entries(0, limit=100_000)}
    purged = {n for what, n, *_ in acknowledged if what == "purged"}
    assert len(acknowledged) > WRITES
    for what, n, position, version in acknowledged:
        entry = entries[position]
        gone = n in purged or store.state(f"keys/k{n}") is None
        if what == "made":
            assert entry.resource == f"keys/k{n}/versions/{version}"
            assert gone == (store.wrapped(version, "north") is None)
            assert gone == (store.state(entry.resource) is None)
        else:
            assert (entry.kind, entry.resource) == (Kind.TOMBSTONE, f"keys/k{n}")
            assert store.wrapped(version, "north") is None
    # A purge may have happened and not been reported; a key without one is alive.
    alive = {n for what, n, *_ in acknowledged if what == "made" and int(n) % 3}
    assert all(store.state(f"keys/k{n}") is not None for n in alive)
