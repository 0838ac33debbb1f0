"""Watch: every change, in order, once, to those who may read it, while they may."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from hsmvault.api import watching
from hsmvault.api.account import Account
from hsmvault.api.services import Limits
from hsmvault.model.access import CRYPTO_OFFICER, CRYPTO_USER
from hsmvault.model.log import Head
from hsmvault.model.records import read
from hsmvault.model.stored import StoredRecord
from hsmvault.store.schema import log as log_table
from hsmvault.v1 import access_service_pb2 as access
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1.resources_pb2 import Key
from hsmvault.v1.vault_service_pb2 import Change, WatchRequest, WatchResponse
from tests.support.served import (
    VAULT_ID,
    Caller,
    Served,
    change,
    follow,
    genesis,
    grant,
    make_key,
    refusal,
    refusal_in_time,
    region,
    served,
    signed,
)
from tests.support.settings import update

StatusCode = grpc.StatusCode
DENIED = (StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        yield one


class Watch:
    """A stream that is read one change at a time."""

    def __init__(self, caller: Caller, **asked: Any) -> None:
        self.stream: Any = caller.vault.Watch(WatchRequest(**asked), timeout=60)
        self._pending: list[Change] = []
        self.position = next(self.stream).position
        """Where it began."""

    def next(self) -> Change:
        while not self._pending:
            response: WatchResponse = next(self.stream)
            self.position = response.position
            self._pending.extend(response.changes)
        return self._pending.pop(0)

    def names(self, count: int) -> list[str]:
        return [self.next().name for _ in range(count)]

    def refused(self) -> tuple[StatusCode, str, str]:
        """Read until it ends with an error."""

        def drain() -> None:
            for _ in self.stream:
                pass

        return refusal(drain)


@contextmanager
def watch(caller: Caller, **asked: Any) -> Iterator[Watch]:
    one = Watch(caller, **asked)
    try:
        yield one
    finally:
        one.stream.cancel()


@contextmanager
def _two(directory: Path) -> Iterator[tuple[Served, Served]]:
    """A primary and an extended region that has nothing yet."""
    shared: dict[str, bytes] = {}
    with (
        served(directory, records=genesis(region("south")), keys=shared) as primary,
        served(directory, own="south", keys=shared, ca=primary.ca) as south,
    ):
        yield primary, south


def _by_snapshot(primary: Served, south: Served) -> None:
    """Bring the extended region up by a snapshot, in place of its log."""
    head, *items = list(primary.store.export_snapshot("south"))
    assert isinstance(head, Head)
    states = []
    for item in items:
        if isinstance(item, StoredRecord):
            stored = change(read(item.kind, item.record), south.hsm).stored
            states.append(replace(stored, index=item.index))
    (seal,) = south.hsm.mac([head.base_statement(VAULT_ID)])
    south.store.install_snapshot(head, states=states, wrapped=(), seal=seal)


def _update(north: Served, name: str, **fields: Any) -> Key:
    return north.uma.keys.UpdateKey(keys.UpdateKeyRequest(key=Key(name=name, **fields)))


def test_changes_are_told_as_they_happen_with_their_resources(north: Served) -> None:
    with watch(north.uma) as told:
        made = make_key(north, "a", tags={"team": "pay"})
        version, key = told.next(), told.next()
        _update(north, "keys/a", enabled=False)
        disabled = told.next()

    assert version.kind == Change.KEY_VERSION
    assert version.name == version.key_version.name == made.current_version
    assert (key.kind, key.name, key.removed) == (Change.KEY, "keys/a", False)
    assert key.key == made
    assert key.position == made.position
    assert key.time.seconds
    assert not disabled.key.enabled


def test_a_stream_goes_on_from_any_position_and_tells_nothing_twice(
    north: Served,
) -> None:
    for number in range(7):
        make_key(north, f"k{number}")
    with watch(north.uma, position="1.north.1", kinds=[Change.KEY]) as told:
        everything = [told.next() for _ in range(7)]

    for number, after in enumerate(everything):
        with watch(north.uma, position=after.position, kinds=[Change.KEY]) as told:
            make_key(north, f"later-{number}")
            rest = told.names(7 - number - 1 + number + 1)

        assert rest[: 6 - number] == [c.name for c in everything[number + 1 :]]
        assert rest[-1] == f"keys/later-{number}"


def test_a_backlog_of_many_pages_is_told_in_order_without_a_gap(
    north: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hsmvault.vault.feed.PAGE", 3)
    monkeypatch.setattr(watching, "RESPONSE_BYTES", 500)
    make_key(north, "a")
    for number in range(20):
        _update(north, "keys/a", tags={"n": str(number)})

    with watch(north.uma, position="1.north.2", kinds=[Change.KEY]) as told:
        numbers = [told.next().key.tags.get("n") for _ in range(21)]

    assert numbers == [None, *map(str, range(20))]


def test_each_reader_is_told_what_it_may_read_and_nothing_else(north: Served) -> None:
    """One history, as the ten roles' holders at `/` see it."""
    who = {"ada": "", "olga": "", "uma": "", "tom": ""}
    streams = {name: Watch(getattr(north, name)) for name in who}
    make_key(north, "a")
    north.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/a"))
    north.olga.keys.RecoverKey(keys.RecoverKeyRequest(name="keys/a"))
    north.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/a"))
    north.olga.keys.PurgeKey(keys.PurgeKeyRequest(name="keys/a"))
    granted = grant(north, "kim", CRYPTO_USER, "/keys")
    north.ada.access.DeleteRoleAssignment(
        access.DeleteRoleAssignmentRequest(name=granted.name)
    )
    update(north, rate_limit=100_000)
    end = grant(north, "end", CRYPTO_USER).name

    def seen(name: str) -> list[tuple[str, str, bool]]:
        found: list[tuple[str, str, bool]] = []
        while not found or found[-1][1] != end:
            one = streams[name].next()
            found.append((Change.Kind.Name(one.kind), one.name, one.removed))
        return found[:-1]

    version = ("KEY_VERSION", False)
    roles = [
        ("ROLE_ASSIGNMENT", granted.name, False),
        ("ROLE_ASSIGNMENT", granted.name, True),
    ]
    settings = [("VAULT", "vault", False)]
    live, gone = ("KEY", "keys/a", False), ("KEY", "keys/a", True)
    told = {name: seen(name) for name in who}
    assert told["ada"] == [*roles, *settings]
    # Deleted keys alone: what it is, deleted twice, and that it was purged.
    assert told["olga"] == [live, live, gone, *roles, *settings]
    assert [(k, r) for k, _, r in told["uma"]][:1] == [version]
    assert told["uma"][1:] == [live, gone, live, gone, gone, *roles]
    assert told["tom"][1:] == [live, live, live, live, gone, *roles, *settings]
    for stream in streams.values():
        stream.stream.cancel()


def test_who_holds_a_role_at_one_key_is_told_of_that_key_alone(north: Served) -> None:
    make_key(north, "a")
    make_key(north, "ab")
    grant(north, "kim", CRYPTO_USER, "/keys/a")
    with (
        watch(north.kim, kinds=[Change.KEY]) as everywhere,
        watch(north.kim, scope="/keys/A", kinds=[Change.KEY]) as there,
        watch(north.uma, scope="/keys/a", kinds=[Change.KEY]) as of_all,
    ):
        for name in ("ab", "a"):
            _update(north, f"keys/{name}", enabled=False)

        assert everywhere.names(1) == there.names(1) == ["keys/a"]
        assert of_all.names(1) == ["keys/a"]
    assert refusal(lambda: Watch(north.kim, scope="/keys/ab"))[:2] == DENIED


def test_who_may_read_nothing_is_told_nothing(north: Served) -> None:
    code, reason, message = refusal(lambda: Watch(north.eve))
    named = refusal(lambda: Watch(north.uma, kinds=[Change.KEY, Change.VAULT]))

    assert (code, reason) == DENIED
    assert "CN=eve lacks keys/read/action at /" in message
    assert named[:2] == DENIED
    assert "vault/read/action" in named[2]


def test_a_stream_ends_as_soon_as_its_reader_may_read_nothing_more(
    north: Served,
) -> None:
    granted = grant(north, "kim", CRYPTO_USER)
    with watch(north.kim) as told:
        make_key(north, "a")
        told.names(2)
        north.ada.access.DeleteRoleAssignment(
            access.DeleteRoleAssignmentRequest(name=granted.name)
        )
        make_key(north, "secret")

        rest: list[str] = []

        def drain() -> None:
            for response in told.stream:
                rest.extend(change.name for change in response.changes)

        code, reason, _ = refusal(drain)

    assert (code, reason) == DENIED
    assert not [name for name in rest if "secret" in name]


def test_what_is_read_changes_with_the_roles_while_the_stream_lasts(
    north: Served,
) -> None:
    grant(north, "kim", CRYPTO_OFFICER)
    with watch(north.kim, kinds=[Change.KEY]) as told:
        make_key(north, "before")
        north.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/before"))
        deleted = told.next()
        grant(north, "kim", CRYPTO_USER)
        make_key(north, "after")

        assert deleted.key.state == Key.DELETED
        assert told.names(1) == ["keys/after"]


def test_a_stream_ends_when_its_caller_comes_from_elsewhere_now(north: Served) -> None:
    with watch(north.uma) as told:
        update(north, allowed_networks=["10.0.0.0/8"], allow_lock_out=True)

        assert told.refused()[:2] == (DENIED[0], "NETWORK_NOT_ALLOWED")


@pytest.mark.parametrize(
    ("asked", "code", "reason"),
    [
        ({"position": "soon"}, StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ({"position": "1.north.0"}, StatusCode.ABORTED, "POSITION_LOST"),
        ({"position": "1.south.3"}, StatusCode.ABORTED, "POSITION_LOST"),
        ({"scope": "keys/a"}, StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ({"kinds": [0]}, StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ({"kinds": [99]}, StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (
            {"scope": "/keys", "kinds": [Change.VAULT]},
            StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        ),
        (
            {"heartbeat": Duration(seconds=61)},
            StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        ),
        (
            {"heartbeat": Duration(nanos=1)},
            StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        ),
    ],
)
def test_what_cannot_be_watched_is_refused_at_once(
    north: Served, asked: dict[str, Any], code: StatusCode, reason: str
) -> None:
    assert refusal(lambda: Watch(north.ada, **asked))[:2] == (code, reason)


def test_a_position_beyond_the_end_is_waited_for_and_then_refused(
    north: Served,
) -> None:
    asked = WatchRequest(position="1.north.99")

    def begin(seconds: float) -> WatchResponse:
        stream: Any = north.uma.vault.Watch(asked, timeout=seconds)
        response: WatchResponse = next(stream)
        return response

    assert refusal_in_time(begin)[:2] == (StatusCode.UNAVAILABLE, "REGION_BEHIND")


def test_what_is_not_kept_any_more_is_not_made_up(tmp_path: Path) -> None:
    """An extended region whose log begins with a snapshot."""
    with _two(tmp_path) as (primary, south):
        follow(primary, south)
        make_key(primary, "a")
        _by_snapshot(primary, south)

        told = refusal(lambda: Watch(south.uma, position="1.north.3"))

        assert told[:2] == (StatusCode.ABORTED, "POSITION_COMPACTED")
        assert "list what there is" in told[2]


def test_an_entry_that_was_edited_in_the_store_is_not_told(
    north: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes the store cannot put words into the log's mouth."""
    monkeypatch.setattr("hsmvault.vault.feed.PAGE", 2)
    made = make_key(north, "a")
    _update(north, "keys/a", enabled=True)
    index = int(made.position.rpartition(".")[2])
    with north.store._database.writing() as connection:
        (record,) = connection.execute(
            log_table.select()
            .with_only_columns(log_table.c.record)
            .where(log_table.c.idx == index)
        ).one()
        connection.execute(
            log_table.update()
            .where(log_table.c.idx == index)
            .values(record=record.replace(b'"enabled":true', b'"enabled":false'))
        )

    with watch(north.uma, position="1.north.2") as told:
        code, _, _ = told.refused()

    assert code is StatusCode.DATA_LOSS


def test_signs_of_life_come_while_nothing_happens(
    north: Served,
) -> None:
    with watch(north.tom, heartbeat=Duration(seconds=1)) as told:
        life: WatchResponse = next(told.stream)

    assert not life.changes
    assert life.position == told.position


def test_a_position_moves_on_past_what_is_not_told(north: Served) -> None:
    """So that going on from there does not look at all of it again."""
    with watch(north.ada, heartbeat=Duration(seconds=1)) as told:
        made = make_key(north, "a")
        life: WatchResponse = next(told.stream)

    assert not life.changes
    assert life.position == made.position


def test_watchers_are_bounded_by_principal_and_in_all(tmp_path: Path) -> None:
    """And neither keeps others from watching, or anybody from being served."""
    limits = Limits(watching_threads=watching.PER_PRINCIPAL + 1)
    with served(tmp_path, limits=limits) as north:
        make_key(north, "a")
        mine = [Watch(north.uma) for _ in range(watching.PER_PRINCIPAL)]
        too_many = refusal(lambda: Watch(north.uma))
        other = Watch(north.tom)
        full = refusal(lambda: Watch(north.ada))

        assert too_many[:2] == (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert "CN=uma watches 4 times here" in too_many[2]
        assert full[:2] == (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        for _ in range(20):
            assert signed(north.uma, "keys/a").signature
        for stream in (*mine, other):
            stream.stream.cancel()
        _until(lambda: Watch(north.uma)).stream.cancel()


def test_a_stream_that_is_cancelled_makes_room_and_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when it looks at the log next time: that is an hour off here."""
    monkeypatch.setattr(watching, "POLL_SECONDS", 3600)
    limits = Limits(watching_threads=watching.PER_PRINCIPAL)
    with served(tmp_path, limits=limits) as north:
        mine = [Watch(north.uma) for _ in range(watching.PER_PRINCIPAL)]
        for gone in mine:
            gone.stream.cancel()
        # All the threads there are: each must be free again, not only its place.
        again = [_until(lambda: Watch(north.uma)) for _ in mine]
        for one in again:
            one.stream.cancel()

    assert all(one.position for one in again)


def _until(ask: Callable[[], Watch]) -> Watch:
    """Ask until there is room: that somebody left is noticed within a moment."""
    pause = threading.Event()
    while True:
        try:
            return ask()
        except grpc.RpcError as error:
            assert error.code() is StatusCode.RESOURCE_EXHAUSTED
            pause.wait(0.02)


def test_a_partition_that_ends_sends_its_watchers_elsewhere(north: Served) -> None:
    with watch(north.uma) as told:
        make_key(north, "a")
        told.names(2)
        north.services.drain()
        code, reason, message = told.refused()

    assert (code, reason) == (StatusCode.UNAVAILABLE, "NOT_SERVING")
    assert f"from {told.position}" in message


def test_a_stream_is_told_of_when_it_begins_and_when_it_ends(tmp_path: Path) -> None:
    accounts: list[Account] = []
    with served(tmp_path, observers=(accounts.append,)) as north:
        granted = grant(north, "kim", CRYPTO_USER)
        with watch(north.kim) as told:
            began = [a for a in accounts if a.method.endswith("/Watch")]
            north.ada.access.DeleteRoleAssignment(
                access.DeleteRoleAssignmentRequest(name=granted.name)
            )
            told.refused()
    both = [a for a in accounts if a.method.endswith("/Watch")]

    assert [a.code for a in began] == ["OK"]
    assert [(a.principal, a.code) for a in both] == [
        ("CN=kim", "OK"),
        ("CN=kim", "PERMISSION_DENIED"),
    ]


def test_an_extended_region_tells_what_it_has_received(tmp_path: Path) -> None:
    with _two(tmp_path) as (primary, south):
        follow(primary, south)
        with watch(south.uma, kinds=[Change.KEY]) as told:
            made = make_key(primary, "a")
            follow(primary, south)

            assert told.next().position == made.position
