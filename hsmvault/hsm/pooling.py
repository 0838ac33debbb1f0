"""What a partition does for the pool manager: re-wrap, seal, sign heads, remember."""

import hashlib
import json
from typing import Any, Final

from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm import labels
from hsmvault.hsm.core import Core
from hsmvault.hsm.generating import wrap_for
from hsmvault.hsm.opened import destroy
from hsmvault.hsm.opening import open_material, require_for, unwrap
from hsmvault.hsm.session import Doing, Session
from hsmvault.hsm.templates import first_purpose
from hsmvault.model.algorithms import KeySpec
from hsmvault.model.decoding import from_json
from hsmvault.model.errors import IntegrityFailure, WrappedKeyInvalid
from hsmvault.model.log import Epoch, Head, Position
from hsmvault.model.material import Material
from hsmvault.model.stored import WrappedKey, pair_key_name

_PAIR_PARTS: Final = 3
"""`pair/{sender}/{receiver}`."""

_ANCHOR: Final = {
    Attribute.CLASS: ObjectClass.DATA,
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.APPLICATION: "hsmvault",
    Attribute.LABEL: labels.ANCHOR,
}


_GENERATION: Final = {**_ANCHOR, Attribute.LABEL: labels.GENERATION}


class Pooling:
    """The half of a partition that satisfies the vault's `PoolHsm`."""

    def __init__(self, core: Core) -> None:
        self._core: Final = core

    def rewrap(
        self, spec: KeySpec, public_key: bytes, wrapped: WrappedKey
    ) -> WrappedKey:
        own = self._core.config.region
        parts = wrapped.wrapping_key.split("/")
        if len(parts) != _PAIR_PARTS:
            raise WrappedKeyInvalid(
                "{name} is no pair key", name=wrapped.wrapping_key[:100]
            )
        require_for(
            wrapped,
            version=wrapped.version,
            region=own,
            under=pair_key_name(parts[1], own),
        )

        def work(session: Session) -> WrappedKey:
            under = self._core.require_pair_key(session, parts[1], own)
            secret = unwrap(
                session,
                under,
                spec,
                first_purpose(spec),
                wrapped=wrapped.wrapped,
                public_key=public_key,
            )
            return self._wrap_on(session, secret, wrapped.version, own)

        return self._core.run(work, doing=Doing.OPENING)

    def seal(self, material: Material, region: str) -> WrappedKey:
        def work(session: Session) -> WrappedKey:
            purpose = first_purpose(material.spec)
            secret = open_material(self._core, session, material, purpose)
            return self._wrap_on(session, secret, material.version, region)

        return self._core.run(work)

    def _wrap_on(
        self, session: Session, secret: Any, version: str, region: str
    ) -> WrappedKey:
        try:
            return wrap_for(self._core, session, secret, version=version, region=region)
        finally:
            destroy(secret)

    def sign_statement(self, statement: bytes) -> bytes:
        digest = hashlib.sha256(statement).digest()

        def work(session: Session) -> bytes:
            key = self._core.identity_key(session)
            return bytes(key.sign(digest, mechanism=Mechanism.ECDSA))

        return self._core.run(work)

    # --- pair keys -----------------------------------------------------------

    def has_pair_keys(self, region: str) -> bool:
        def work(session: Session) -> bool:
            # Looked for anew: another process may have dropped them.
            session.keys = {}
            return all(
                self._core.pair_key(session, *pair) is not None
                for pair in self._pairs(region)
            )

        return self._core.run(work)

    def drop_pair_keys(self, region: str) -> int:
        def work(session: Session) -> int:
            dropped = 0
            for pair in self._pairs(region):
                label = labels.pair_key(*pair)
                named = {
                    Attribute.CLASS: ObjectClass.SECRET_KEY,
                    Attribute.TOKEN: True,
                    Attribute.LABEL: label,
                    Attribute.ID: labels.object_id(label),
                }
                # By name alone, and all of them: look-alikes are better gone, too.
                for key in list(session.raw.get_objects(named)):
                    key.destroy()
                    dropped += 1
            return dropped

        try:
            return self._core.run(work)
        finally:
            self._core.sessions.forget_installed()

    def _pairs(self, region: str) -> tuple[tuple[str, str], tuple[str, str]]:
        own = self._core.config.region
        return (own, region), (region, own)

    # --- how far the counters have come --------------------------------------

    def read_generation(self) -> int:
        return self._core.run(
            lambda session: max((n for _, n in _generations(session)), default=0)
        )

    def write_generation(self, generation: int) -> None:
        def work(session: Session) -> None:
            old = _generations(session)
            if any(known >= generation for _, known in old):
                return
            value = str(generation).encode()
            # As with heads: the new one first.
            session.raw.create_object({**_GENERATION, Attribute.VALUE: value})
            for former, _ in old:
                destroy(former)

        self._core.run(work)

    # --- the anchored head ---------------------------------------------------

    def read_anchor(self) -> Head | None:
        return self._core.run(lambda session: _newest(_anchors(session)))

    def write_anchor(self, head: Head) -> None:
        def work(session: Session) -> None:
            old = _anchors(session)
            newest = _newest(old)
            if newest is not None and head.position <= newest.position:
                return
            # The new one first: a crash in between leaves both, and the newer counts.
            session.raw.create_object({**_ANCHOR, Attribute.VALUE: _encode(head)})
            for anchor, _ in old:
                destroy(anchor)

        self._core.run(work)


def _anchors(session: Session) -> list[tuple[Any, Head]]:
    return [
        (anchor, _decode(anchor[Attribute.VALUE]))
        for anchor in list(session.raw.get_objects(_ANCHOR))
    ]


def _generations(session: Session) -> list[tuple[Any, int]]:
    try:
        return [
            (kept, int(kept[Attribute.VALUE]))
            for kept in list(session.raw.get_objects(_GENERATION))
        ]
    except ValueError as error:
        raise IntegrityFailure(
            "what the token remembers of the counters does not read as a number"
        ) from error


def _newest(anchors: list[tuple[Any, Head]]) -> Head | None:
    heads = [head for _, head in anchors]
    return max(heads, key=lambda head: head.position, default=None)


def _encode(head: Head) -> bytes:
    epoch = head.position.epoch
    return json.dumps(
        {
            "epoch": epoch.number,
            "region": epoch.region,
            "index": head.position.index,
            "chain": head.chain.hex(),
        }
    ).encode()


def _decode(raw: bytes) -> Head:
    try:
        fields = from_json(raw)
        epoch = Epoch(int(fields["epoch"]), str(fields["region"]))
        return Head(
            Position(epoch, int(fields["index"])), bytes.fromhex(fields["chain"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityFailure(
            "the head that the token remembers does not read as one"
        ) from error
