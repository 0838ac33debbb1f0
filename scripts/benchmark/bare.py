"""A throw-away SoftHSM token with bare session keys, for the floor and the raw rate."""

import hashlib
import os
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.constants import DEFAULT
from pkcs11.util.ec import encode_named_curve_parameters

from hsmvault.hsm.module import load

DIGEST = hashlib.sha256(b"benchmark").digest()
BLOCK = bytes(64)


def make_token(home: Path) -> tuple[str, str]:
    """Initialise a token below `home`; returns its label and user PIN."""
    (home / "tokens").mkdir(parents=True)
    conf = home / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {home / 'tokens'}\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(conf)
    pin = secrets.token_hex(8)
    command = ["softhsm2-util", "--init-token", "--free", "--label", "bench"]
    subprocess.run(
        [*command, "--so-pin", pin, "--pin", pin],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return "bench", pin


@dataclass(frozen=True, slots=True)
class BareKeys:
    """Session keys of one session, used by one thread at a time."""

    # python-pkcs11 mixes what a key can do into its class at run time.
    p256: Any
    rsa: Any
    aes: Any
    session: pkcs11.Session
    wrapped: bytes
    """The P-256 key under the AES key."""

    def create_p256(self) -> None:
        """One key pair made and wrapped: what CreateKey costs the token at least."""
        private = _p256(self.session)
        _wrap(self.aes, private)
        private.destroy()

    def open_p256(self) -> None:
        """One wrapped key opened and used: what Sign costs the token on a miss."""
        private = self.aes.unwrap_key(
            ObjectClass.PRIVATE_KEY,
            KeyType.EC,
            self.wrapped,
            mechanism=Mechanism.AES_KEY_WRAP_PAD,
            # Uses that SoftHSM does not know of a private key.
            template=dict.fromkeys(
                (Attribute.ENCRYPT, Attribute.VERIFY, Attribute.WRAP), DEFAULT
            ),
        )
        private.sign(DIGEST, mechanism=Mechanism.ECDSA)
        private.destroy()

    def sign_p256(self) -> bytes:
        """One ECDSA signature: what ES256 costs the token."""
        return bytes(self.p256.sign(DIGEST, mechanism=Mechanism.ECDSA))

    def sign_rsa(self) -> bytes:
        """One RSASSA-PSS signature: what PS256 costs the token."""
        signature = self.rsa.sign(
            DIGEST,
            mechanism=Mechanism.RSA_PKCS_PSS,
            mechanism_param=(Mechanism.SHA256, pkcs11.MGF.SHA256, 32),
        )
        return bytes(signature)

    def encrypt(self) -> bytes:
        """One AES-256-GCM encryption of 64 bytes, its IV from the token."""
        iv = self.session.generate_random(96)
        ciphertext = self.aes.encrypt(
            BLOCK,
            mechanism=Mechanism.AES_GCM,
            mechanism_param=pkcs11.GCMParams(iv, b"", 128),
        )
        return bytes(ciphertext)


def _wrap(aes: Any, private: Any) -> bytes:
    return bytes(aes.wrap_key(private, mechanism=Mechanism.AES_KEY_WRAP_PAD))


def _p256(session: pkcs11.Session) -> Any:
    """Make a key pair that can be wrapped; return its private half."""
    curve = encode_named_curve_parameters("secp256r1")
    _, private = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: curve}, local=True
    ).generate_keypair(private_template={Attribute.EXTRACTABLE: True})
    return private


def bare_keys(module: str, label: str, pin: str, sessions: int) -> list[BareKeys]:
    """Log in once and give every session keys of its own."""
    token = load(module).get_token(token_label=label)
    opened = [token.open(rw=True, user_pin=pin)]
    opened += [token.open(rw=True) for _ in range(sessions - 1)]
    keys = []
    for session in opened:
        p256 = _p256(session)
        _, rsa = session.generate_keypair(KeyType.RSA, 2048)
        aes = session.generate_key(KeyType.AES, 256)
        keys.append(BareKeys(p256, rsa, aes, session, _wrap(aes, p256)))
    return keys
