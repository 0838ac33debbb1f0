"""Making keys: as session objects that are wrapped, and destroyed at once."""

from collections.abc import Sequence
from typing import Any, Final

from pkcs11.constants import Attribute

from hsmvault.hsm import public
from hsmvault.hsm.core import Core
from hsmvault.hsm.opened import destroy
from hsmvault.hsm.session import Session
from hsmvault.hsm.templates import (
    KWP_MECHANISM,
    PUBLIC_HALF,
    Purpose,
    asked,
    kind,
    require,
    user_key,
)
from hsmvault.model.algorithms import KeySpec, KeyType
from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.material import Generated
from hsmvault.model.stored import (
    KWP,
    WRAPPED_BYTES_MAX,
    WrappedKey,
    pair_key_name,
    region_key_name,
)

EXPONENT: Final = b"\x01\x00\x01"


def generate(
    core: Core,
    session: Session,
    version: str,
    spec: KeySpec,
    regions: Sequence[str],
) -> Generated:
    """Make material, wrap it for each region, and destroy it.

    The wrapping keys are looked up first: without one, nothing is made.
    """
    wrapping = {region: wrapping_key(core, session, region) for region in regions}
    objects = _make(session, spec)
    try:
        secret = objects[0]
        require(secret, user_key(spec, Purpose.NOTHING), label="a fresh key")
        public_key = _public_key(objects[1], spec) if len(objects) > 1 else b""
        if public_key:
            public.require_spec(public_key, spec)
        wrapped = tuple(
            wrap(key, secret, version=version, region=region, name=name)
            for region, (name, key) in wrapping.items()
        )
    finally:
        for made in objects:
            destroy(made)
    return Generated(wrapped, public_key)


def wrapping_key(core: Core, session: Session, region: str) -> tuple[str, Any]:
    """Return the key that wraps for a region, and its name, or raise RegionNotReady."""
    own = core.config.region
    if region == own:
        return region_key_name(own), core.region_key(session)
    return (
        pair_key_name(own, region),
        core.require_pair_key(session, own, region),
    )


def wrap_for(
    core: Core, session: Session, secret: Any, *, version: str, region: str
) -> WrappedKey:
    """Wrap an open key for one region."""
    name, key = wrapping_key(core, session, region)
    return wrap(key, secret, version=version, region=region, name=name)


def wrap(
    under: Any, secret: Any, *, version: str, region: str, name: str
) -> WrappedKey:
    """Wrap a key by KWP under a region or pair key."""
    wrapped = under.wrap_key(secret, mechanism=KWP_MECHANISM)
    if len(wrapped) > WRAPPED_BYTES_MAX:
        raise IntegrityFailure(
            "the token wraps a key into {size} bytes", size=len(wrapped)
        )
    return WrappedKey(version, region, name, KWP, wrapped)


def _make(session: Session, spec: KeySpec) -> tuple[Any, ...]:
    """Return the secret or private key and, of a pair, then the public half."""
    template = asked(user_key(spec, Purpose.NOTHING))
    _, key_type = kind(spec, Purpose.NOTHING)
    if spec.type is KeyType.OCT:
        return (session.raw.generate_key(key_type, spec.bits, template=template),)
    if spec.curve is None:
        half = {**PUBLIC_HALF, Attribute.PUBLIC_EXPONENT: EXPONENT}
        pair = session.raw.generate_keypair(
            key_type,
            spec.bits,
            public_template=half,
            private_template=template,
        )
    else:
        half = {**PUBLIC_HALF, Attribute.EC_PARAMS: public.EC_PARAMS[spec.curve]}
        pair = session.raw.generate_keypair(
            key_type, public_template=half, private_template=template
        )
    return pair[1], pair[0]


def _public_key(half: Any, spec: KeySpec) -> bytes:
    if spec.curve is not None:
        return public.of_point(spec.curve, half[Attribute.EC_POINT])
    return public.of_rsa(half[Attribute.MODULUS], half[Attribute.PUBLIC_EXPONENT])
