"""What becomes of keys by itself: the manager's job, a real store, a partition."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from hsmvault.model.errors import IntegrityFailure, Unavailable
from hsmvault.model.log import Kind, Position
from hsmvault.model.names import KeyName
from hsmvault.model.rotation import DAY_MS
from hsmvault.model.vault_records import VaultRecord
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.clock import TrustedClock
from hsmvault.regions.due import DueKeys
from hsmvault.regions.registry import Registry
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1.resources_pb2 import Key
from hsmvault.vault.upkeep import Chore
from tests.support.nodes import FakeNotes, FakeWorkers
from tests.support.served import (
    PAGE_KEY,
    VAULT_ID,
    Served,
    genesis,
    make_key,
    refusal,
    region,
    served,
)

START_MS = 1_800_000_000_000
STATE = grpc.StatusCode.FAILED_PRECONDITION


class Workers(FakeWorkers):
    """A partition that may be away, or crash once it has done what was asked."""

    def __init__(self, one: Served) -> None:
        super().__init__("north", [one.hsm])
        self.one = one
        self.done: list[str] = []
        self.after: Callable[[], None] = lambda: None

    def upkeep(self, chore: Chore, name: str, *, incarnation: str) -> Position:
        self._one()
        position = self.one.services.upkeep.run(
            chore, KeyName.parse(name), incarnation=incarnation
        )
        self.done.append(f"{chore} {name}")
        self.after()
        return position


@dataclass
class World:
    """One region, its manager's job, and a time that goes on when it is told to."""

    days: float = 0.0
    wrong_ms: int = 0
    peers: list[int] = field(default_factory=list)
    alarms: Alarms = field(default_factory=Alarms)

    def wall(self) -> int:
        return START_MS + int(self.days * DAY_MS) + self.wrong_ms

    def boot(self) -> float:
        return self.days * 86400

    def begin(self, one: Served) -> None:
        self.one = one
        self.workers = Workers(one)
        self.manager()
        one.manager.past = self.clock.require_past

    def manager(self) -> None:
        """Start the manager, or start it again: it remembers nothing."""
        workers, store = self.workers, self.one.store
        self.clock = TrustedClock(
            self.wall,
            self.boot,
            peers=lambda: self.peers,
            alarms=self.alarms,
            audit=FakeNotes(),
        )
        self.due = DueKeys(
            store,
            Registry(
                store, workers, vault_id=VAULT_ID, clock=self.wall, audit=FakeNotes()
            ),
            workers,
            clock=self.clock,
            wall=self.wall,
            boot=self.boot,
            alarms=self.alarms,
        )

    def after(self, days: float) -> list[str]:
        """Let days pass, have the job done, and tell what it did."""
        self.days += days
        self.workers.done.clear()
        self.due.round()
        return list(self.workers.done)

    def policy(self, key: str, **days: float) -> keys.RotationPolicy:
        policy = keys.RotationPolicy(name=f"keys/{key}/rotationPolicy")
        for name, value in days.items():
            getattr(policy, name).CopyFrom(Duration(seconds=int(value * 86400)))
        request = keys.UpdateRotationPolicyRequest(rotation_policy=policy)
        return self.one.uma.keys.UpdateRotationPolicy(request)

    def delete(self, key: str) -> Key:
        return self.one.uma.keys.DeleteKey(keys.DeleteKeyRequest(name=f"keys/{key}"))

    def key(self, key: str) -> Key:
        return self.one.uma.keys.GetKey(keys.GetKeyRequest(name=f"keys/{key}"))

    def purge(self, key: str) -> Any:
        return self.one.olga.keys.PurgeKey(keys.PurgeKeyRequest(name=f"keys/{key}"))

    def versions(self, key: str) -> int:
        request = keys.ListKeyVersionsRequest(parent=f"keys/{key}")
        return len(self.one.uma.keys.ListKeyVersions(request).key_versions)


def _world(directory: Path, **settings: Any) -> Iterator[World]:
    world = World()
    others = settings.pop("others", ())
    vault = VaultRecord(VAULT_ID, 1, 1, page_key=PAGE_KEY, **settings)
    records = genesis(*others, settings=vault)
    with served(directory, records=records, clock=world.wall, boot=world.boot) as one:
        world.begin(one)
        yield world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from _world(tmp_path, retention_days=7)


@pytest.fixture
def protected(tmp_path: Path) -> Iterator[World]:
    yield from _world(tmp_path, retention_days=7, purge_protection=True)


@pytest.fixture
def paired(tmp_path: Path) -> Iterator[World]:
    yield from _world(tmp_path, others=[region("south")])


# --- the sweeper ------------------------------------------------------------------


def test_a_deleted_key_is_purged_by_itself_when_its_retention_ends(
    world: World,
) -> None:
    make_key(world.one, "gone")
    make_key(world.one, "kept")
    world.delete("gone")

    before = world.after(7 - 0.001)
    done = world.after(0.001)

    assert before == []
    assert done == ["purge keys/gone"]
    assert refusal(lambda: world.purge("gone"))[0] is grpc.StatusCode.NOT_FOUND
    assert world.key("kept").enabled
    assert not world.one.store.states(Kind.KEY, prefix="keys/gone")
    assert world.after(1) == []


def test_what_is_due_is_purged_in_the_order_of_its_dates(world: World) -> None:
    for key in ("b", "c", "a"):
        make_key(world.one, key)
        world.delete(key)
        world.days += 0.5

    assert world.after(20) == ["purge keys/b", "purge keys/c", "purge keys/a"]


def test_rs_10_a_key_that_was_recovered_is_not_purged(world: World) -> None:
    make_key(world.one, "back")
    world.delete("back")
    world.one.olga.keys.RecoverKey(keys.RecoverKeyRequest(name="keys/back"))

    assert world.after(20) == []
    assert world.key("back").enabled


def test_rs_10_no_clock_that_jumps_has_anything_purged(world: World) -> None:
    make_key(world.one, "gone")
    world.delete("gone")
    world.after(2)

    world.wrong_ms = 30 * DAY_MS

    assert world.after(0) == []
    assert "boot clock" in world.alarms.texts()[0]


def test_rs_10_a_purge_by_hand_does_not_believe_a_clock_that_jumped(
    protected: World,
) -> None:
    make_key(protected.one, "gone")
    protected.delete("gone")
    protected.after(2)

    early = refusal(lambda: protected.purge("gone"))
    protected.wrong_ms = 30 * DAY_MS
    jumped = refusal(lambda: protected.purge("gone"))

    assert early[:2] == (STATE, "PURGE_TOO_EARLY")
    assert "2027-01-22 08:00:00Z" in early[2]
    assert "hsmvault key recover" in early[2]
    assert jumped[:2] == (STATE, "CLOCK_UNTRUSTED")
    assert "hsmvault sweeper resume" in jumped[2]


def test_rs_10_purge_protection_ends_with_the_retention_and_a_trusted_clock(
    protected: World,
) -> None:
    make_key(protected.one, "gone")
    protected.delete("gone")

    protected.days = 8

    assert protected.purge("gone").position


def test_rs_10_a_clock_set_back_for_a_deletion_does_not_shorten_its_retention(
    world: World,
) -> None:
    """Back, delete, forward again: the purge would else be due at once."""
    make_key(world.one, "gone")
    world.days = 2
    world.wrong_ms = -90 * DAY_MS

    deleted = world.delete("gone")

    assert deleted.purge_time.ToMilliseconds() == START_MS + 9 * DAY_MS


def test_rs_10_a_restart_does_not_make_a_wrong_clock_right(world: World) -> None:
    make_key(world.one, "gone")
    world.delete("gone")

    world.wrong_ms = 30 * DAY_MS
    world.manager()

    assert world.after(0) == []
    world.peers = [START_MS]
    assert world.after(0.1) == []
    world.peers = [START_MS + 7 * DAY_MS]
    assert world.after(0.1) == ["purge keys/gone"]


def test_rs_10_a_name_that_lives_again_is_another_key(world: World) -> None:
    """What was to be purged is asked for by its incarnation, not by its name."""
    make_key(world.one, "name")
    first = world.delete("name")
    world.purge("name")
    again = make_key(world.one, "name")
    world.delete("name")

    world.days = 20
    told = refusal(
        lambda: world.one.olga.keys.RecoverKey(
            keys.RecoverKeyRequest(name="keys/name", etag=first.etag)
        )
    )
    with suppress(Exception):
        world.one.services.upkeep.run(
            Chore.PURGE, KeyName.parse("keys/name"), incarnation=first.incarnation
        )

    assert told[0] is grpc.StatusCode.ABORTED
    assert again.incarnation != first.incarnation
    assert world.one.store.state("keys/name") is not None
    assert world.after(0) == ["purge keys/name"]


def test_au_07_what_happens_by_itself_is_recorded_as_the_vaults_own(
    world: World,
) -> None:
    make_key(world.one, "K")
    world.policy("K", rotate_after_create=28)
    world.after(28)
    world.delete("K")
    world.after(7)
    world.one.trail.sync()

    lines = [
        json.loads(line)
        for path in world.one.trail.directory.rglob("*")
        if path.is_file()
        for line in path.read_text().splitlines()
    ]
    told = [r for r in lines if str(r.get("event", "")).startswith("upkeep.")]

    assert [(r["event"], r["resource"]) for r in told] == [
        ("upkeep.rotate", "/keys/k"),
        ("upkeep.purge", "/keys/k"),
    ]
    assert {(r["facts"]["principal"], r["facts"]["code"]) for r in told} == {
        ("vault", "OK")
    }


def test_rs_10_an_edited_index_ends_nothing_early_and_holds_nothing_up(
    world: World, tmp_path: Path
) -> None:
    """The attacker writes to the store: dates there that no MAC is over."""
    for key in ("early", "late"):
        make_key(world.one, key)
        world.delete(key)
        world.days += 1
    make_key(world.one, "live")
    with closing(sqlite3.connect(tmp_path / "north.db")) as connection:
        connection.execute(
            "UPDATE state SET due = 1 WHERE place IN ('keys/late', 'keys/live')"
        )
        connection.commit()

    assert world.after(5) == ["purge keys/early"]
    assert world.after(1) == ["purge keys/late"]
    assert world.versions("live") == 1


# --- the rotator ------------------------------------------------------------------


def test_a_key_rotates_by_itself_when_its_policy_says_so(world: World) -> None:
    first = make_key(world.one, "k").current_version

    policy = world.policy("k", rotate_after_create=28)
    early = world.after(27)
    done = world.after(1)
    again = world.after(27)

    assert policy.next_rotation_time.ToMilliseconds() == START_MS + 28 * DAY_MS
    assert (early, done, again) == ([], ["rotate keys/k"], [])
    assert world.key("k").current_version != first
    assert world.versions("k") == 2
    assert world.after(1) == ["rotate keys/k"]


def test_a_key_rotates_before_it_expires_and_then_expires_later(world: World) -> None:
    make_key(world.one, "k")
    world.policy("k", expire_after=60, rotate_before_expire=10)

    done = world.after(50)

    assert done == ["rotate keys/k"]
    assert world.key("k").expire_time.ToMilliseconds() == START_MS + 110 * DAY_MS
    assert (world.after(49), world.after(1)) == ([], ["rotate keys/k"])


def test_a_rotation_by_hand_counts(world: World) -> None:
    make_key(world.one, "k")
    world.policy("k", rotate_after_create=28)
    world.days = 20
    world.one.uma.keys.RotateKey(keys.RotateKeyRequest(name="keys/k"))

    assert (world.after(27), world.after(1)) == ([], ["rotate keys/k"])


def test_a_crash_between_the_write_and_its_answer_does_not_rotate_twice(
    world: World,
) -> None:
    def crash() -> None:
        raise Unavailable("the partition ended")

    make_key(world.one, "k")
    world.policy("k", rotate_after_create=28)
    world.workers.after = crash
    world.after(28)

    world.workers.after = lambda: None
    world.manager()

    assert world.after(0.1) == []
    assert world.versions("k") == 2


def test_whoever_asks_for_what_is_not_due_changes_nothing(world: World) -> None:
    key = make_key(world.one, "k")
    head = world.one.store.head()

    for chore in Chore:
        with pytest.raises(Exception, match="need not") as raised:
            world.one.services.upkeep.run(
                chore, KeyName.parse("keys/k"), incarnation=key.incarnation
            )
        assert getattr(raised.value, "reason", "") == "NOT_DUE"

    assert world.one.store.head() == head


def test_a_disabled_key_does_not_rotate_and_that_is_told_once(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    make_key(world.one, "k", enabled=False)
    world.policy("k", rotate_after_create=28)

    assert world.after(28) == []
    assert world.after(1) == []
    assert capsys.readouterr().err.count("rotation.skipped") == 1


def test_a_deleted_key_does_not_rotate_and_keeps_its_policy(world: World) -> None:
    make_key(world.one, "k")
    world.policy("k", rotate_after_create=28)
    world.days = 27
    world.delete("k")

    assert world.after(2) == []
    world.one.olga.keys.RecoverKey(keys.RecoverKeyRequest(name="keys/k"))
    assert world.after(0) == ["rotate keys/k"]


def test_no_version_is_made_while_another_is_pending(paired: World) -> None:
    make_key(paired.one, "k")
    paired.policy("k", rotate_after_create=28)

    first = paired.after(28)
    current = paired.key("k").current_version
    waiting = paired.after(40)
    (pending,) = paired.key("k").pending_versions
    paired.one.uma.keys.ActivateKeyVersion(
        keys.ActivateKeyVersionRequest(name=pending, force=True)
    )

    assert (first, waiting) == (["rotate keys/k"], [])
    assert pending != current
    assert paired.after(1) == ["rotate keys/k"]


def test_a_clock_that_jumped_rotates_nothing(world: World) -> None:
    make_key(world.one, "k")
    world.policy("k", rotate_after_create=28)
    world.after(1)

    world.wrong_ms = 100 * DAY_MS

    assert world.after(0) == []


def test_what_fails_is_tried_again_later_and_shown_meanwhile(world: World) -> None:
    make_key(world.one, "k")
    world.policy("k", rotate_after_create=28)
    world.after(28)
    calls: list[float] = []

    def broken(chore: Chore, name: str, *, incarnation: str) -> Position:
        calls.append(world.days)
        raise IntegrityFailure(f"{chore} {name} {incarnation}")

    whole, world.workers.upkeep = world.workers.upkeep, broken  # type: ignore[method-assign]
    second = 1 / 86400
    world.after(28)
    world.after(9 * second)
    world.after(2 * second)
    world.after(19 * second)
    world.after(2 * second)
    shown = world.alarms.texts()
    world.workers.upkeep = whole  # type: ignore[method-assign]

    assert len(calls) == 3
    assert "rotate keys/k" in shown[0]
    assert world.after(1) == ["rotate keys/k"]
    assert not world.alarms.texts()


def test_one_key_that_fails_does_not_keep_the_others_waiting(world: World) -> None:
    for key in ("a", "b"):
        make_key(world.one, key)
        world.policy(key, rotate_after_create=28)
    whole = world.workers.upkeep

    def broken(chore: Chore, name: str, *, incarnation: str) -> Position:
        if name == "keys/a":
            raise IntegrityFailure("broken")
        return whole(chore, name, incarnation=incarnation)

    world.workers.upkeep = broken  # type: ignore[method-assign]

    assert world.after(28) == ["rotate keys/b"]


@pytest.mark.parametrize(
    "edit",
    [
        "mac = zeroblob(32)",
        "mac = 'text'",
        "record = record || zeroblob(1)",
        "revision = 'text'",
        "idx = 1",
        "idx = 'text'",
        "parent = 'keys/b'",
    ],
)
def test_a_row_that_was_edited_keeps_no_other_key_waiting(
    world: World, tmp_path: Path, edit: str
) -> None:
    """By whoever writes to the store, and has no session in the HSM.

    SQLite keeps anything in any column: what is no number, and no bytes, too.
    """
    for key in ("a", "b"):
        make_key(world.one, key)
        world.policy(key, rotate_after_create=28)
    with closing(sqlite3.connect(tmp_path / "north.db")) as connection:
        edited = connection.execute(
            f"UPDATE state SET {edit} WHERE place = 'keys/a'"  # noqa: S608
        ).rowcount
        connection.commit()

    assert edited == 1
    assert world.after(28) == ["rotate keys/b"]
    assert any("rotate keys/a" in text for text in world.alarms.texts())
