"""Keys that come from outside: the part of `vault.keys` by which they come in."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Unpack

from google.protobuf.duration_pb2 import Duration

from hsmvault.client import methods
from hsmvault.client.caller import Caller, WriteOptions
from hsmvault.client.naming import new_key
from hsmvault.v1 import key_service_pb2 as messages
from hsmvault.v1.resources_pb2 import Key, KeySpec


class Carrying:
    """Imports keys."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def begin_import(
        self,
        key_id: str,
        *,
        bits: int = 0,
        lifetime: dt.timedelta | None = None,
        **options: Unpack[WriteOptions],
    ) -> messages.Import:
        """Make a wrapping key (RSA-2048) for one key of this name, good for an hour.

        It is good for one attempt, and ends with the partition that made it.
        """
        request = messages.BeginImportRequest(
            key_id=key_id.removeprefix("keys/"), bits=bits
        )
        if lifetime is not None:
            request.lifetime.CopyFrom(Duration(seconds=int(lifetime.total_seconds())))
        return self._caller.call(methods.BEGIN_IMPORT, request, **options)

    def import_key(
        self,
        key_id: str,
        *,
        jwk: bytes | None = None,
        pkcs8: bytes | None = None,
        blob: bytes | None = None,
        wrapping_key: str = "",
        public_key: bytes = b"",
        kind: str = "",
        curve: str = "",
        bits: int = 0,
        operations: Sequence[str] = (),
        enabled: bool = True,
        not_before: dt.datetime | None = None,
        expire: dt.datetime | None = None,
        tags: Mapping[str, str] | None = None,
        deletion_protection: bool = False,
        **options: Unpack[WriteOptions],
    ) -> Key:
        """Bring in a key: as a JWK, as PKCS #8, or as a blob under `wrapping_key`.

        With a blob, say what it holds: `kind`, and `bits` or `curve`; and of an EC key
        give the `public_key`. The vault proves in the HSM that it is so.
        """
        spec = KeySpec(type=kind, bits=bits, curve=curve) if kind else None
        request = messages.ImportKeyRequest(
            key_id=key_id.removeprefix("keys/"),
            key=new_key(
                spec,
                operations=operations,
                enabled=enabled,
                not_before=not_before,
                expire=expire,
                tags=tags,
                deletion_protection=deletion_protection,
            ),
            import_name=wrapping_key,
            public_key=public_key,
        )
        if [jwk, pkcs8, blob].count(None) != 2:  # noqa: PLR2004
            raise ValueError("give one of jwk, pkcs8 and blob")
        if jwk is not None:
            request.jwk = jwk
        if pkcs8 is not None:
            request.pkcs8 = pkcs8
        if blob is not None:
            request.key_transfer_blob = blob
        return self._caller.call(methods.IMPORT_KEY, request, **options)
