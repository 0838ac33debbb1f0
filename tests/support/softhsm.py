"""Real tokens for tests: SoftHSM2 in temporary directories, born by real ceremonies.

A region's tokens take a second to be born, so they are born once per run and copied for
each test: SoftHSM keeps a token in plain files.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import pytest

from hsmvault.hsm import labels
from hsmvault.hsm.officer import OfficerProcess

MODULE: Final = "/usr/lib/softhsm/libsofthsm2.so"
SO_PIN: Final = "so-pin-of-a-test"
USER_PIN: Final = "user-pin-of-a-test"
PARTITIONS: Final = ("p0", "p1", "p2")
VAULT: Final = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Token:
    """One token, and the directory whose configuration shows it."""

    directory: Path
    label: str
    so_pin: str = field(default=SO_PIN, repr=False)
    user_pin: str = field(default=USER_PIN, repr=False)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs to see this token."""
        return {"SOFTHSM2_CONF": str(self.directory / "softhsm2.conf")}

    def officer(self, **changed: str) -> OfficerProcess:
        """The officer of this token, not started yet. `so_pin=…` for a wrong one."""
        arguments: dict[str, Any] = {
            "token_label": self.label,
            "so_pin": self.so_pin,
            "user_pin": self.user_pin,
            **changed,
        }
        return OfficerProcess(module=MODULE, environment=self.environment, **arguments)


@dataclass(frozen=True)
class RegionTokens:
    """The tokens of one region, and the public halves of their identity keys."""

    region: str
    tokens: Mapping[str, Token]
    identities: Mapping[str, bytes]
    """SubjectPublicKeyInfo (DER) per partition."""


def configure(directory: Path) -> Path:
    """Make an empty SoftHSM2 there, unless there is one; returns its configuration."""
    (directory / "tokens").mkdir(parents=True, exist_ok=True, mode=0o700)
    configuration = directory / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {directory / 'tokens'}\n"
        "objectstore.backend = file\n"
        "log.level = ERROR\n"
        "slots.removable = false\n"
    )
    return configuration


def empty_token(directory: Path, label: str) -> Token:
    """A token that `init_token` can be asked for: nothing is there yet."""
    configure(directory)
    return Token(directory, label)


def make_token(directory: Path, label: str, *, beside: bool = False) -> Token:
    """An initialised token without any key."""
    token = empty_token(directory, label)
    with token.officer() as officer:
        officer.ask({"task": "init_token", "label": label, "beside": beside})
    return token


def context(
    source: tuple[str, str], destination: tuple[str, str], purpose: str, label: str
) -> dict[str, object]:
    """The context of an offer: (region, partition) to (region, partition)."""
    return {
        "vault": VAULT,
        "from_region": source[0],
        "from_partition": source[1],
        "to_region": destination[0],
        "to_partition": destination[1],
        "purpose": purpose,
        "label": label,
        "epoch": 0,
    }


class Officers:
    """All officers of some regions, each started when first asked."""

    def __init__(self, *regions: RegionTokens) -> None:
        self._regions = {r.region: r for r in regions}
        self._started: dict[tuple[str, str], OfficerProcess] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, place: tuple[str, str]) -> OfficerProcess:
        """The officer of (region, partition)."""
        if place not in self._started:
            token = self._regions[place[0]].tokens[place[1]]
            self._started[place] = self._stack.enter_context(token.officer())
        return self._started[place]

    def identity(self, place: tuple[str, str]) -> str:
        """The identity of (region, partition), as tasks want it."""
        return self._regions[place[0]].identities[place[1]].hex()

    def carry(
        self,
        source: tuple[str, str],
        destination: tuple[str, str],
        purpose: str,
        label: str,
    ) -> bool:
        """One whole ceremony; False if the key was there already."""
        offer = self[destination].ask(
            {
                "task": "offer",
                "context": context(source, destination, purpose, label),
            }
        )
        answer = self[source].ask(
            {
                "task": "answer",
                "offer": dict(offer),
                "peer_identity": self.identity(destination),
            }
        )
        installed = self[destination].ask(
            {
                "task": "install",
                "answer": dict(answer),
                "peer_identity": self.identity(source),
            }
        )
        return bool(installed["installed"])


def birth_region(
    directory: Path,
    region: str,
    *,
    partitions: tuple[str, ...] = PARTITIONS,
    shared: bool = False,
) -> RegionTokens:
    """A region's tokens with identity, region and integrity keys, equal in all.

    `shared` puts them side by side under one configuration, so that one process can
    load them all; otherwise each has a directory of its own, as in production.
    """
    tokens: dict[str, Token] = {}
    identities: dict[str, bytes] = {}
    for p in partitions:
        place = directory if shared else directory / p
        tokens[p] = empty_token(place, labels.token_label(region, p))
    born = RegionTokens(region, tokens, identities)
    with Officers(born) as officers:
        for p in partitions:
            officer = officers[region, p]
            officer.ask(
                {"task": "init_token", "label": tokens[p].label, "beside": shared}
            )
            task = {"task": "birth_identity", "region": region, "partition": p}
            identities[p] = bytes.fromhex(officer.ask(task)["public_key"])
        first, *others = partitions
        officers[region, first].ask({"task": "birth_region", "region": region})
        for p in others:
            for purpose, label in (
                ("region-key", labels.region_key(region)),
                ("integrity", labels.integrity_key(region)),
            ):
                officers.carry((region, first), (region, p), purpose, label)
    return born


def birth_pair(
    officers: Officers, sender: RegionTokens, receiver: RegionTokens
) -> None:
    """A pair key: outbound in all of the sender, inbound in all of the receiver."""
    label = labels.pair_key(sender.region, receiver.region)
    first, *others = sender.tokens
    source = (sender.region, first)
    officers[source].ask(
        {"task": "birth_pair", "sender": sender.region, "receiver": receiver.region}
    )
    for p in others:
        officers.carry(source, (sender.region, p), "pair-out", label)
    for p in receiver.tokens:
        officers.carry(source, (receiver.region, p), "pair-in", label)


def clone(born: RegionTokens, directory: Path) -> RegionTokens:
    """The same tokens in another place, to be used up by one test."""
    places = {t.directory for t in born.tokens.values()}
    shared = len(places) == 1 < len(born.tokens)
    # One directory per token keeps its name; a shared one becomes `directory`.
    copies = {p: directory if shared else directory / p.name for p in places}
    for place, copied in copies.items():
        shutil.copytree(place, copied, dirs_exist_ok=True)
        configure(copied)
    tokens = {
        p: replace(token, directory=copies[token.directory])
        for p, token in born.tokens.items()
    }
    return replace(born, tokens=tokens)


@pytest.fixture(scope="session")
def born_regions(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[RegionTokens, RegionTokens]:
    """`north` and `south`, pair keys both ways. Shared by the run: do not change."""
    directory = tmp_path_factory.mktemp("born")
    north = birth_region(directory / "north", "north")
    south = birth_region(directory / "south", "south")
    with Officers(north, south) as officers:
        birth_pair(officers, north, south)
        birth_pair(officers, south, north)
    return north, south


@pytest.fixture
def north(
    born_regions: tuple[RegionTokens, RegionTokens], tmp_path: Path
) -> RegionTokens:
    """Three tokens of `north`, for this test alone."""
    return clone(born_regions[0], tmp_path / "north")


@pytest.fixture
def south(
    born_regions: tuple[RegionTokens, RegionTokens], tmp_path: Path
) -> RegionTokens:
    """Three tokens of `south`, for this test alone."""
    return clone(born_regions[1], tmp_path / "south")


@pytest.fixture(scope="session")
def shared_region(tmp_path_factory: pytest.TempPathFactory) -> RegionTokens:
    """Tokens of `north` under one configuration. Shared by the run: do not change."""
    return birth_region(tmp_path_factory.mktemp("shared"), "north", shared=True)


@pytest.fixture(scope="session")
def shared_softhsm(shared_region: RegionTokens) -> Iterator[RegionTokens]:
    """The same, and seen by this process: a module reads its configuration once."""
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ.update(shared_region.tokens[PARTITIONS[0]].environment)
    yield shared_region
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before
