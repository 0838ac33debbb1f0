"""Step 3: envelope encryption: sealed in north, opened in south."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import hsmvault
from scripts.demonstration.keys import AES
from scripts.demonstration.stage import Stage

NONCE = bytes(12)
"""The data key encrypts this one text and is thrown away, so no nonce repeats."""


@dataclass(frozen=True)
class Secret:
    """A data key that must be found nowhere, in clear."""

    plaintext: bytes


def envelope(stage: Stage, vault: hsmvault.Vault, text: Path) -> Secret:
    """Seal a file in north and open it in south."""
    clear = text.read_bytes()
    made = vault.at("north").generate_data_key(AES)
    sealed = AESGCM(made.plaintext).encrypt(NONCE, clear, None)
    stage.say(
        f"{text.name}, {len(clear)} bytes, sealed with a data key from "
        f"[bold]{made.served.region}/{made.served.partition}[/]; kept beside it: "
        f"{len(made.wrapped)} wrapped bytes ({made.algorithm})"
    )
    opened = vault.at("south").unwrap(made.name, made.algorithm, made.wrapped)
    back = AESGCM(opened.plaintext).decrypt(NONCE, sealed, None)
    stage.say(f"opened in [bold]{opened.served.region}/{opened.served.partition}[/]")
    stage.claim("the bytes are equal", true=back == clear)
    return Secret(made.plaintext)
