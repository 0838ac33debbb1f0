"""Power lost at every step of CreateKey and RotateKey, before and after the step.

A key that can be named afterwards is durable, was opened by a sibling before, and
signs; one that cannot be named left nothing behind.
"""

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hsmvault.model.access import Permission
from hsmvault.model.algorithms import KeySpec
from hsmvault.model.errors import WrappedKeyInvalid
from hsmvault.model.key_records import KeyRecord
from hsmvault.model.log import Epoch, Kind
from hsmvault.model.names import KeyName
from hsmvault.store.store import Store
from hsmvault.vault.crypto import Crypto
from hsmvault.vault.invocations import Invocations
from hsmvault.vault.keys import KeyMaker
from hsmvault.vault.memory import Memory
from hsmvault.vault.plans import Plans
from hsmvault.vault.ports import Material
from hsmvault.vault.settings import KeySettings
from hsmvault.vault.view import Caller
from hsmvault.vault.writing import Request, Writer
from tests.support.fakes import FakeCounters, FakeHsm
from tests.support.served import VAULT_ID, change, genesis

NAME = KeyName("payroll")
P256 = KeySpec.of("EC")
CREATE = Request(
    Caller("CN=uma", Permission.KEYS_CREATE, "/keys/payroll"), "Create", b"d", "r-1"
)
ROTATE = Request(
    Caller("CN=uma", Permission.KEYS_ROTATE, "/keys/payroll"), "Rotate", b"d", "r-2"
)
STEPS = {"generate", "finish_import", "mac", "self_test", "check_macs", "commit"}
"""What happens to the world; between two of them a crash is like after the first."""


class Crash(BaseException):
    """Power is lost. No error handling sees it."""


@dataclass
class Fuse:
    """Burns down by one before and one after each step; a crash when it is out."""

    left: int
    steps: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Starting up is not what is tested."""
        left = self.left
        self.left = 10**6
        yield
        self.left = left
        self.steps.clear()

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash


class Doomed:
    """Whatever it wraps, until the fuse is out."""

    def __init__(self, wrapped: Any, fuse: Fuse) -> None:
        self._wrapped = wrapped
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        wrapped = getattr(self._wrapped, name)
        if name not in STEPS:
            return wrapped

        def step(*args: Any, **named: Any) -> Any:
            self._fuse.burn()
            self._fuse.steps.append(name)
            answer = wrapped(*args, **named)
            self._fuse.burn()
            return answer

        return step


@dataclass
class Sibling:
    """The witness: another partition of the region, which remembers what it opened."""

    hsm: FakeHsm
    proven: set[str] = field(default_factory=set)

    def self_test(self, material: Material) -> bool:
        self.hsm.self_test(material)
        self.proven.add(material.version)
        return True


@dataclass
class World:
    """A region whose partitions may crash. What is durable outlives them."""

    store: Store
    keys: dict[str, bytes]
    sibling: Sibling

    def maker(self, fuse: Fuse) -> KeyMaker:
        hsm: Any = Doomed(FakeHsm("p0", keys=self.keys, vault_id=VAULT_ID), fuse)
        store: Any = Doomed(self.store, fuse)
        witness: Any = Doomed(self.sibling, fuse)
        memory = Memory(store, hsm, region="north")
        with fuse.held():
            memory.refresh()
        writer = Writer(store, hsm, memory, _clock)
        return KeyMaker(store, hsm, witness, memory, writer, _clock, _new_id)

    def named(self) -> KeyRecord | None:
        stored = self.store.state("keys/payroll")
        return KeyRecord.from_bytes(stored.record) if stored else None


def _clock() -> int:
    return 1_700_000_000_000


def _new_id() -> str:
    return secrets.token_hex(16)


def _create(maker: KeyMaker) -> object:
    return maker.create(CREATE, NAME, P256, KeySettings())


def _rotate(maker: KeyMaker) -> object:
    return maker.rotate(ROTATE, NAME, etag="")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    keys: dict[str, bytes] = {}
    hsm = FakeHsm("p1", keys=keys, vault_id=VAULT_ID)
    with Store.open("sqlite:///north.db", region="north", home=tmp_path) as store:
        store.found(
            [change(record, hsm) for record in genesis()],
            time_ms=1,
            epoch=Epoch(1, "north"),
        )
        yield World(store, keys, Sibling(hsm))


FUSES = range(1, 15)
"""The test below proves that they reach past the last step."""


@pytest.mark.parametrize("fuse", FUSES)
def test_a_key_that_can_be_named_was_proven_and_signs(world: World, fuse: int) -> None:
    with contextlib.suppress(Crash):
        _create(world.maker(Fuse(fuse)))

    key = world.named()
    if key is None:
        assert world.store.states(Kind.KEY_VERSION) == []
        assert world.store.count_wrapped("north") == 0
    else:
        assert key.current in world.sibling.proven
        _require_signs(world)


@pytest.mark.parametrize("fuse", FUSES)
def test_a_caller_who_repeats_a_crashed_request_gets_one_key(
    world: World, fuse: int
) -> None:
    with contextlib.suppress(Crash):
        _create(world.maker(Fuse(fuse)))

    _create(world.maker(Fuse(1000)))

    assert len(world.store.states(Kind.KEY_VERSION)) == 1
    _require_signs(world)


@pytest.mark.parametrize("fuse", FUSES)
def test_a_crashed_rotation_leaves_the_key_usable(world: World, fuse: int) -> None:
    _create(world.maker(Fuse(1000)))

    with contextlib.suppress(Crash):
        _rotate(world.maker(Fuse(fuse)))

    key = world.named()
    assert key is not None
    assert key.current in world.sibling.proven
    versions = world.store.states(Kind.KEY_VERSION)
    assert len(versions) == key.revision == world.store.count_wrapped("north")
    _require_signs(world)


@pytest.mark.parametrize("do", [_create, _rotate])
def test_the_fuses_reach_past_the_last_step(
    world: World, do: Callable[[KeyMaker], object]
) -> None:
    if do is _rotate:
        _create(world.maker(Fuse(1000)))
    fuse = Fuse(max(FUSES))

    do(world.maker(fuse))

    assert fuse.left > 0
    assert set(fuse.steps) >= {"generate", "mac", "self_test", "commit"}


def test_what_a_sibling_cannot_use_is_never_committed(world: World) -> None:
    def refuse(_material: Material) -> None:
        raise WrappedKeyInvalid("it does not open here")

    world.sibling.hsm.self_test = refuse  # type: ignore[method-assign,assignment]

    with pytest.raises(WrappedKeyInvalid):
        _create(world.maker(Fuse(1000)))

    assert world.named() is None
    assert world.store.count_wrapped("north") == 0


def _require_signs(world: World) -> None:
    """A partition that starts now signs with the key."""
    hsm = FakeHsm("p2", keys=world.keys, vault_id=VAULT_ID)
    memory = Memory(world.store, hsm, region="north")
    memory.refresh()
    counting = Invocations(FakeCounters(), memory)
    crypto = Crypto(hsm, Plans(memory, _clock), counting)
    name, signature = crypto.sign(NAME, None, "ES256", bytes(32))
    assert len(signature) == 64
    assert name.startswith("keys/payroll/versions/")
