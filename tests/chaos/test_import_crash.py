"""Power lost at every step of an import: its wrapping key opens one blob, or none.

What may be repeated afterwards is refused, or is the first time that anything is
opened; and a key that can be named was proven, as one that was made here.
"""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hsmvault.model.access import Permission
from hsmvault.model.algorithms import KeySpec
from hsmvault.model.errors import ImportSpent
from hsmvault.model.import_records import ImportRecord
from hsmvault.model.log import Epoch, Kind
from hsmvault.model.material import Blob, Generated
from hsmvault.model.names import ImportName, KeyName
from hsmvault.store.store import Store
from hsmvault.vault.imports import Importer
from hsmvault.vault.settings import KeySettings
from hsmvault.vault.view import Caller
from hsmvault.vault.writing import Request
from tests.chaos.test_create_crash import Crash, Fuse, Sibling, World
from tests.support.fakes import FakeHsm
from tests.support.incoming import blob, outside
from tests.support.served import VAULT_ID, change, genesis

NAME = KeyName("payroll")
AES = KeySpec.of("oct", bits=256)
FUSES = range(1, 25)
"""A test below proves that they reach past the last step."""


@dataclass
class Holder(Sibling):
    """The sibling whose process holds the wrapping key, and lives on."""

    opened: list[str] = field(default_factory=list)

    def holds_import(self, _partition: str, import_id: str) -> bool:
        return self.hsm.holds_import(import_id)

    def finish_import(
        self, _partition: str, import_id: str, version: str, blob: Blob, **given: Any
    ) -> Generated:
        made = self.hsm.finish_import(import_id, version, blob, **given)
        self.opened.append(version)
        return made


@dataclass
class Bringing:
    """An import that was begun at the sibling; another partition is to finish it."""

    world: World
    holder: Holder
    name: ImportName
    public_key: bytes

    def finish(self, fuse: Fuse, request_id: str = "r-1") -> object:
        maker = self.world.maker(fuse)
        importer = Importer(
            maker.hsm,
            maker.witness,
            maker.memory,
            maker.writer,
            maker,
            maker.clock,
            maker.new_id,
        )
        caller = Caller("CN=uma", Permission.KEYS_IMPORT, "/keys/payroll")
        return importer.finish(
            Request(caller, "Import", b"d", request_id),
            NAME,
            self.name,
            blob(self.public_key, AES, outside(AES)),
            KeySettings(),
        )

    def used(self) -> bool:
        stored = self.world.store.state(str(self.name))
        assert stored is not None
        return bool(ImportRecord.from_bytes(stored.record).used_ms)


@pytest.fixture
def bringing(tmp_path: Path) -> Iterator[Bringing]:
    keys: dict[str, bytes] = {}
    hsm = FakeHsm("p1", keys=keys, vault_id=VAULT_ID)
    name = ImportName(secrets.token_hex(16))
    expire_ms = 2**50
    public_key = hsm.begin_import(name.id, 2048, expire_ms=expire_ms)
    record = ImportRecord(
        name=str(name),
        revision=1,
        key=str(NAME),
        bits=2048,
        public_key=public_key,
        region="north",
        partition="p1",
        author="CN=uma",
        create_ms=1,
        expire_ms=expire_ms,
    )
    with Store.open("sqlite:///north.db", region="north", home=tmp_path) as store:
        store.found(
            [change(one, hsm) for one in (*genesis(), record)],
            time_ms=1,
            epoch=Epoch(1, "north"),
        )
        holder = Holder(hsm)
        yield Bringing(World(store, keys, holder), holder, name, public_key)


@pytest.mark.parametrize("fuse", FUSES)
def test_cr_11_a_wrapping_key_opens_once_whenever_the_process_is_killed(
    bringing: Bringing, fuse: int
) -> None:
    with contextlib.suppress(Crash):
        bringing.finish(Fuse(fuse))
    first = list(bringing.holder.opened)
    # It is not opened before that it was used is durable.
    assert bringing.used() or not first
    before = bringing.world.named()

    if before is not None or not bringing.used():
        # It was answered, or would have been; or nothing was done. So repeat it.
        bringing.finish(Fuse(1000))
    else:
        with pytest.raises(ImportSpent, match="was used at"):
            bringing.finish(Fuse(1000))
        # Nor in another request.
        with pytest.raises(ImportSpent, match="was used at"):
            bringing.finish(Fuse(1000), "r-2")

    key = bringing.world.named()
    versions = bringing.world.store.states(Kind.KEY_VERSION)
    assert len(bringing.holder.opened) <= 1
    assert len(versions) == (key is not None)
    if key is not None:
        assert [key.current] == bringing.holder.opened
        assert key.current in bringing.holder.proven


def test_the_fuses_reach_past_the_last_step(bringing: Bringing) -> None:
    fuse = Fuse(max(FUSES))

    bringing.finish(fuse)

    assert fuse.left > 0
    steps = [step for step in fuse.steps if step != "check_macs"]
    opening = ["mac", "commit", "finish_import"]
    assert steps == [*opening, "mac", "self_test", "mac", "commit"]
