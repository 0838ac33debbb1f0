"""Keys that come in, go out and come back: that part of `vault.keys`."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Unpack

from google.protobuf.duration_pb2 import Duration
from google_crc32c import value as crc32c

from hsmvault.client import methods
from hsmvault.client.caller import Caller, Options, WriteOptions
from hsmvault.client.naming import key_name, new_key
from hsmvault.model.errors import IntegrityFailure
from hsmvault.v1 import key_service_pb2 as messages
from hsmvault.v1.resources_pb2 import Key, KeySpec


class Carrying:
    """Imports keys, backs them up, and restores them."""

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
        request.material_crc32c = crc32c(jwk or pkcs8 or blob or b"")
        return self._caller.call(methods.IMPORT_KEY, request, **options)

    def backup(self, name: str, **options: Unpack[Options]) -> bytes:
        """Carry out a key with all versions; only this vault can restore it."""
        answer = self._caller.call(
            methods.BACKUP_KEY,
            messages.BackupKeyRequest(name=key_name(name)),
            **options,
        )
        if crc32c(answer.backup) != answer.backup_crc32c:
            raise IntegrityFailure(
                "the backup is not what its CRC32C says: it changed on the way; ask "
                "again"
            )
        return answer.backup

    def restore(self, backup: bytes, **options: Unpack[WriteOptions]) -> Key:
        """Bring a purged key back: its name, its versions, their ids and dates."""
        request = messages.RestoreKeyRequest(
            backup=backup, backup_crc32c=crc32c(backup)
        )
        return self._caller.call(methods.RESTORE_KEY, request, **options)
