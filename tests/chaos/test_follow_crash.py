"""A follower that dies anywhere holds what it acknowledged, and goes on from there."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmvault.model.errors import Unavailable
from hsmvault.model.key_records import VersionRecord
from hsmvault.model.lifecycle import RegionState
from hsmvault.replication import sender, snapshot
from tests.support.nodes import Cable, TestVault, added, digest, until

SEEDS = [11, 23]


class Fuse:
    """Breaks the n-th call of everything that it was put into, once."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        self.blown = 0

    def into(self, thing: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        work = getattr(thing, name)

        def call(*args: object, **named: object) -> object:
            self.left -= 1
            if self.left == 0:
                self.blown += 1
                raise Unavailable("the power went before {name}", name=name)
            done = work(*args, **named)
            self.left -= 1
            if self.left == 0:
                self.blown += 1
                raise Unavailable("the power went after {name}", name=name)
            return done

        monkeypatch.setattr(thing, name, call)


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[TestVault]:
    vault = TestVault(tmp_path)
    yield vault
    vault.close()


@pytest.mark.parametrize("calls", range(1, 40, 3))
def test_losing_power_at_any_step_loses_and_repeats_nothing(
    vault: TestVault, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    monkeypatch.setattr(snapshot, "_FILL", 4096)
    monkeypatch.setattr(sender, "BATCH_ENTRIES", 3)
    versions = [vault.north.create(f"old-{number}") for number in range(10)]
    fuse = Fuse(calls)
    with vault.north.node() as primary:
        south = vault.region("south")
        for name in ("stage_chunk", "install_snapshot", "apply"):
            fuse.into(south.store, name, monkeypatch)
        for name in ("mac", "rewrap"):
            fuse.into(south.workers, name, monkeypatch)
        with south.node():
            added(primary, south)
            until(lambda: vault.north.state_of("south") is RegionState.SUCCEEDED)
            versions += [vault.north.create(f"new-{number}") for number in range(10)]
            until(lambda: south.index == vault.north.index)

        assert fuse.blown == 1
        assert digest(south.store) == digest(vault.north.store)
        assert all(south.usable(version) for version in versions)


def test_the_fuses_reach_past_the_last_step(
    vault: TestVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the test above would look at fewer steps than there are."""
    monkeypatch.setattr(snapshot, "_FILL", 4096)
    monkeypatch.setattr(sender, "BATCH_ENTRIES", 3)
    for number in range(10):
        vault.north.create(f"old-{number}")
    fuse = Fuse(1_000_000)
    with vault.north.node() as primary:
        south = vault.region("south")
        for name in ("stage_chunk", "install_snapshot", "apply"):
            fuse.into(south.store, name, monkeypatch)
        for name in ("mac", "rewrap"):
            fuse.into(south.workers, name, monkeypatch)
        with south.node():
            added(primary, south)
            until(lambda: vault.north.state_of("south") is RegionState.SUCCEEDED)

        snapshot_steps = 1_000_000 - fuse.left
        assert snapshot_steps > 10


@pytest.mark.parametrize("seed", SEEDS)
def test_a_link_that_is_cut_again_and_again_ends_in_step(
    vault: TestVault, seed: int
) -> None:
    chance = random.Random(seed)
    cable = Cable(lambda: vault.north.port)
    versions: list[VersionRecord] = []
    with vault.north.node() as primary:
        vault.north.nowhere = cable.port
        port, vault.north.port = vault.north.port, 0
        south = vault.region("south")
        vault.north.port = port
        with south.node() as extended:
            added(primary, south)
            until(lambda: vault.north.state_of("south") is RegionState.SUCCEEDED)
            for number in range(60):
                versions.append(vault.north.create(f"key-{number}"))
                if chance.random() < 0.15:
                    cable.cut()
                if chance.random() < 0.3:
                    cable.mend()
            cable.mend()
            until(lambda: south.index == vault.north.index)

            assert digest(south.store) == digest(vault.north.store)
            assert all(south.usable(version) for version in versions)
            assert not extended.replication().alarms
            assert not primary.replication().alarms
    cable.close()
