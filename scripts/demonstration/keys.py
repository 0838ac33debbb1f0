"""Step 1: three keys in north, and how long until south has each."""

import time
from dataclasses import dataclass
from typing import Any, Final

import hsmvault
from scripts.demonstration.stage import Stage, ms

EC: Final = "demo-signing"
RSA: Final = "demo-mail"
AES: Final = "demo-box"

WANTED: Final[dict[str, dict[str, Any]]] = {
    EC: {"kind": "EC", "curve": "P-256"},
    RSA: {"kind": "RSA", "bits": 3072},
    AES: {"kind": "oct", "bits": 256},
}


@dataclass(frozen=True)
class Made:
    """One key, and how long everything took."""

    name: str
    version: str
    position: str
    made: float
    arrived: float


def make_keys(stage: Stage, vault: hsmvault.Vault) -> list[Made]:
    """Make the keys, and wait in south for each."""
    found = []
    table = stage.table("key", "type", "made in", "at position", "south had it after")
    for name, wanted in WANTED.items():
        begun = time.monotonic()
        key = vault.keys.create(name, **wanted)
        answered = time.monotonic()
        vault.regions.wait(key.position, region="south")
        arrived = time.monotonic()
        one = Made(
            name,
            key.current_version,
            key.position,
            made=answered - begun,
            arrived=arrived - answered,
        )
        found.append(one)
        table.add_row(
            key.name,
            f"{key.spec.type} {key.spec.curve or key.spec.bits}",
            ms(one.made),
            one.position,
            ms(one.arrived),
        )
    stage.show(table)
    south = vault.at("south")
    stage.claim(
        "south shows the same keys, at the same versions",
        true=all(south.keys.get(m.name).current_version == m.version for m in found),
    )
    return found
