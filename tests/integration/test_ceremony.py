"""Keys are born in tokens and carried between them, and every step can be repeated."""

from pathlib import Path

import pytest

from hsmvault.hsm import labels
from hsmvault.model.errors import (
    AlreadyExists,
    IntegrityFailure,
    NotFound,
    TemplateViolated,
)
from tests.support.softhsm import (
    MODULE,
    PARTITIONS,
    SO_PIN,
    USER_PIN,
    Officers,
    RegionTokens,
    birth_pair,
    birth_region,
    make_token,
)
from tests.support.stranger import AES, SECRET_KEY, Stranger

pytestmark = pytest.mark.softhsm

REGION = labels.region_key("north")
INTEGRITY = labels.integrity_key("north")
OUT = labels.pair_key("north", "south")


def digest(tokens: RegionTokens, partition: str, label: str) -> bytes:
    """SHA-256 of a secret key, as a foreign client sees it."""
    token = tokens.tokens[partition]
    with Stranger(MODULE, token.environment, token.label) as stranger:
        assert stranger.login(USER_PIN).ok
        (key,) = stranger.find(("LABEL", label.encode()), ("CLASS", SECRET_KEY))
        return stranger.digest_key(key).data


def test_a_region_is_born_with_the_same_keys_in_all_its_partitions(
    north: RegionTokens, south: RegionTokens
) -> None:
    for label in (REGION, INTEGRITY, OUT, labels.pair_key("south", "north")):
        assert len({digest(north, p, label) for p in PARTITIONS}) == 1

    assert digest(north, "p0", OUT) == digest(south, "p2", OUT)
    assert digest(north, "p0", REGION) != digest(
        south, "p0", labels.region_key("south")
    )
    assert digest(north, "p0", REGION) != digest(north, "p0", OUT)


def test_every_key_is_what_its_table_says(
    north: RegionTokens, south: RegionTokens
) -> None:
    with Officers(north, south) as officers:
        for region, other in (("north", "south"), ("south", "north")):
            for p in PARTITIONS:
                assert officers[region, p].ask({"task": "inspect"}) == {
                    "keys": {
                        labels.region_key(region): "region-key",
                        labels.integrity_key(region): "integrity",
                        labels.identity_key(region, p): "identity",
                        labels.pair_key(region, other): "pair-out",
                        labels.pair_key(other, region): "pair-in",
                    },
                    "wrong": [],
                }


def test_the_partitions_of_a_region_do_not_share_an_identity(
    north: RegionTokens,
) -> None:
    assert len(set(north.identities.values())) == len(PARTITIONS)


def test_births_can_be_repeated_and_change_nothing(north: RegionTokens) -> None:
    before = digest(north, "p0", REGION), digest(north, "p0", INTEGRITY)

    with Officers(north) as officers:
        officer = officers["north", "p0"]
        officer.ask({"task": "init_token", "label": "hsmvault-north-p0"})
        made = officer.ask({"task": "birth_region", "region": "north"})["made"]
        task = {"task": "birth_identity", "region": "north", "partition": "p0"}
        public_key = officer.ask(task)["public_key"]

    assert made == []
    assert bytes.fromhex(public_key) == north.identities["p0"]
    assert (digest(north, "p0", REGION), digest(north, "p0", INTEGRITY)) == before


def test_a_birth_that_ended_halfway_goes_on(tmp_path: Path) -> None:
    # Only the identity key is there: the process ended before the others.
    token = make_token(tmp_path, "hsmvault-north-p0")
    identity = {"task": "birth_identity", "region": "north", "partition": "p0"}
    with token.officer() as officer:
        first = officer.ask(identity)

    with token.officer() as officer:
        again = officer.ask(identity)
        made = officer.ask({"task": "birth_region", "region": "north"})["made"]

    assert again == first
    assert made == [REGION, INTEGRITY]


def test_carrying_a_region_key_again_keeps_what_is_there(north: RegionTokens) -> None:
    with Officers(north) as officers:
        installed = officers.carry(
            ("north", "p0"), ("north", "p1"), "region-key", REGION
        )

    assert installed is False


def test_another_region_key_is_never_overwritten(
    north: RegionTokens, tmp_path: Path
) -> None:
    # p1 of another birth of the same region: the label is the same, the key is not.
    other = birth_region(tmp_path / "other", "north", partitions=("p1",))
    before = digest(other, "p1", REGION)
    tokens = {"p0": north.tokens["p0"], **other.tokens}
    identities = {"p0": north.identities["p0"], **other.identities}
    mixed = RegionTokens("north", tokens, identities)

    with Officers(mixed) as officers, pytest.raises(AlreadyExists, match="another"):
        officers.carry(("north", "p0"), ("north", "p1"), "region-key", REGION)

    assert digest(other, "p1", REGION) == before


def test_a_key_that_only_calls_itself_region_key_stops_the_birth(
    tmp_path: Path,
) -> None:
    token = make_token(tmp_path, "hsmvault-north-p0")
    with Stranger(MODULE, token.environment, token.label) as stranger:
        assert stranger.login(USER_PIN).ok
        stranger.create(
            [
                ("CLASS", SECRET_KEY),
                ("KEY_TYPE", AES),
                ("VALUE", bytes(32)),
                ("TOKEN", True),
                ("LABEL", REGION.encode()),
                ("ID", labels.object_id(REGION)),
            ]
        )

    with token.officer() as officer:
        assert officer.ask({"task": "inspect"})["wrong"] == [REGION]
        with pytest.raises(TemplateViolated, match="not as specified"):
            officer.ask({"task": "birth_region", "region": "north"})


def test_a_look_alike_beside_the_region_key_is_not_taken_for_it(
    north: RegionTokens,
) -> None:
    token = north.tokens["p0"]
    with Stranger(MODULE, token.environment, token.label) as stranger:
        assert stranger.login(USER_PIN).ok
        stranger.create(
            [
                ("CLASS", SECRET_KEY),
                ("KEY_TYPE", AES),
                ("VALUE", bytes(32)),
                ("TOKEN", True),
                ("LABEL", REGION.encode()),
                ("ID", labels.object_id(REGION)),
            ]
        )

    with Officers(north) as officers:
        # What is carried is the real one, or p1 would not find it equal to its own.
        installed = officers.carry(
            ("north", "p0"), ("north", "p1"), "region-key", REGION
        )

    assert installed is False


def test_a_half_made_pair_key_is_replaced_everywhere(
    north: RegionTokens, south: RegionTokens
) -> None:
    before = digest(north, "p0", OUT)

    with Officers(north, south) as officers:
        # The first ceremony ended here: p0 has a fresh key that nobody else has.
        officers["north", "p0"].ask(
            {"task": "birth_pair", "sender": "north", "receiver": "south"}
        )
        assert digest(north, "p0", OUT) != before
        birth_pair(officers, north, south)

    after = {digest(north, p, OUT) for p in PARTITIONS} | {
        digest(south, p, OUT) for p in PARTITIONS
    }
    assert len(after) == 1
    assert before not in after


def test_a_lost_partition_gets_its_keys_from_its_siblings(
    north: RegionTokens, south: RegionTokens, tmp_path: Path
) -> None:
    inbound = labels.pair_key("south", "north")
    fresh = make_token(tmp_path / "fresh", "hsmvault-north-p2")
    with fresh.officer() as officer:
        task = {"task": "birth_identity", "region": "north", "partition": "p2"}
        identity = bytes.fromhex(officer.ask(task)["public_key"])
    repaired = RegionTokens(
        "north",
        {**north.tokens, "p2": fresh},
        {**north.identities, "p2": identity},
    )

    with Officers(repaired) as officers:
        for purpose, label in (
            ("region-key", REGION),
            ("integrity", INTEGRITY),
            ("pair-out", OUT),
            ("pair-in", inbound),
        ):
            assert officers.carry(("north", "p0"), ("north", "p2"), purpose, label)

    for label in (REGION, INTEGRITY, OUT, inbound):
        assert digest(repaired, "p2", label) == digest(north, "p0", label)


def test_a_pair_key_is_born_in_its_senders_token_only(south: RegionTokens) -> None:
    with Officers(south) as officers, pytest.raises(NotFound, match="region-key"):
        officers["south", "p0"].ask(
            {"task": "birth_pair", "sender": "north", "receiver": "south"}
        )


def test_a_key_that_is_not_there_is_not_carried(tmp_path: Path) -> None:
    bare = birth_region(tmp_path, "north", partitions=("p0", "p1"))

    with Officers(bare) as officers, pytest.raises(NotFound, match="pair"):
        officers.carry(("north", "p0"), ("north", "p1"), "pair-out", OUT)


def test_a_wiped_token_is_empty_and_can_be_born_again(north: RegionTokens) -> None:
    before = digest(north, "p0", REGION)
    token = north.tokens["p0"]

    with token.officer() as officer:
        officer.ask({"task": "wipe", "label": token.label})
        officer.ask({"task": "init_token", "label": token.label})
        empty = officer.ask({"task": "inspect"})
        officer.ask({"task": "birth_region", "region": "north"})

    assert empty == {"keys": {}, "wrong": []}
    assert digest(north, "p0", REGION) != before
    everything = b"".join(p.read_bytes() for p in token.directory.rglob("*.object"))
    assert SO_PIN.encode() not in everything


def test_a_planted_twin_of_the_identity_key_stops_the_ceremony(
    north: RegionTokens,
) -> None:
    # Whoever has the user PIN can make such a key, but not silently.
    label = labels.identity_key("north", "p0")
    token = north.tokens["p0"]
    with Stranger(MODULE, token.environment, token.label) as stranger:
        assert stranger.login(USER_PIN).ok
        original = [
            key
            for key in stranger.find(("LABEL", label.encode()))
            if stranger.get(key, "CLASS").data[0] == 3
        ]
        assert stranger.copy(original[0], []).ok

    with (
        Officers(north) as officers,
        pytest.raises(IntegrityFailure, match="2 objects"),
    ):
        officers.carry(("north", "p0"), ("north", "p1"), "pair-out", OUT)
