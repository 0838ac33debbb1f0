"""The life of keys. Names may be given as `payroll` or as `keys/payroll`."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Unpack

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from hsmvault.client import methods
from hsmvault.client.caller import Options, WriteOptions
from hsmvault.client.carrying import Carrying
from hsmvault.client.naming import key_name, new_key, timestamp
from hsmvault.v1 import key_service_pb2 as messages
from hsmvault.v1.resources_pb2 import Key, KeySpec, KeyVersion

PAGE: Final = 500


def _policy_name(name: str) -> str:
    return f"{key_name(name)}/rotationPolicy"


def _duration(given: dt.timedelta | None) -> Duration | None:
    if given is None:
        return None
    made = Duration()
    made.FromTimedelta(given)
    return made


class Keys(Carrying):
    """`vault.keys`: create, look up, change, rotate, delete, recover, purge."""

    def create(
        self,
        key_id: str,
        kind: str = "EC",
        *,
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
        """Make a key: `EC` (default P-256), `RSA` (3072) or `oct` (256).

        When it answers, the key is durable and was used once on another partition.
        """
        key = new_key(
            KeySpec(type=kind, bits=bits, curve=curve),
            operations=operations,
            enabled=enabled,
            not_before=not_before,
            expire=expire,
            tags=tags,
            deletion_protection=deletion_protection,
        )
        request = messages.CreateKeyRequest(
            key_id=key_id.removeprefix("keys/"), key=key
        )
        return self._caller.call(methods.CREATE_KEY, request, **options)

    def get(
        self, name: str, *, deleted: bool = False, **options: Unpack[Options]
    ) -> Key:
        """Read a key; a soft-deleted one only if asked for."""
        request = messages.GetKeyRequest(name=key_name(name), show_deleted=deleted)
        return self._caller.call(methods.GET_KEY, request, **options)

    def list(
        self, *, deleted: bool = False, **options: Unpack[Options]
    ) -> Iterator[Key]:
        """Go through all keys by name, page by page."""
        token = ""
        while True:
            page = self._caller.call(
                methods.LIST_KEYS,
                messages.ListKeysRequest(
                    page_size=PAGE, page_token=token, show_deleted=deleted
                ),
                **options,
            )
            yield from page.keys
            token = page.next_page_token
            if not token:
                return

    def versions(self, name: str, **options: Unpack[Options]) -> Iterator[KeyVersion]:
        """Go through the versions of a key, oldest first."""
        token = ""
        while True:
            page = self._caller.call(
                methods.LIST_KEY_VERSIONS,
                messages.ListKeyVersionsRequest(
                    parent=key_name(name), page_size=PAGE, page_token=token
                ),
                **options,
            )
            yield from page.key_versions
            token = page.next_page_token
            if not token:
                return

    def update(
        self,
        name: str,
        *,
        enabled: bool | None = None,
        not_before: dt.datetime | None = None,
        expire: dt.datetime | None = None,
        tags: Mapping[str, str] | None = None,
        operations: Sequence[str] | None = None,
        deletion_protection: bool | None = None,
        clear: Sequence[str] = (),
        etag: str = "",
        **options: Unpack[WriteOptions],
    ) -> Key:
        """Change what is given; in force on all partitions when it answers.

        `clear` names dates to take away: `not_before_time`, `expire_time`.
        """
        key = Key(name=key_name(name), etag=etag)
        paths = list(clear)
        if enabled is not None:
            key.enabled = enabled
            paths.append("enabled")
        if not_before is not None:
            key.not_before_time.CopyFrom(timestamp(not_before))
            paths.append("not_before_time")
        if expire is not None:
            key.expire_time.CopyFrom(timestamp(expire))
            paths.append("expire_time")
        if tags is not None:
            key.tags.update(tags)
            paths.append("tags")
        if operations is not None:
            key.operations.extend(operations)
            paths.append("operations")
        if deletion_protection is not None:
            key.deletion_protection = deletion_protection
            paths.append("deletion_protection")
        request = messages.UpdateKeyRequest(key=key, update_mask=FieldMask(paths=paths))
        return self._caller.call(methods.UPDATE_KEY, request, **options)

    def update_version(
        self, name: str, *, enabled: bool, **options: Unpack[WriteOptions]
    ) -> KeyVersion:
        """Enable or disable one version; in force on all partitions at once."""
        request = messages.UpdateKeyVersionRequest(
            key_version=KeyVersion(name=key_name(name), enabled=enabled),
            update_mask=FieldMask(paths=["enabled"]),
        )
        return self._caller.call(methods.UPDATE_KEY_VERSION, request, **options)

    def rotate(
        self, name: str, *, etag: str = "", **options: Unpack[WriteOptions]
    ) -> KeyVersion:
        """Make a new version. It is current once every region holds it."""
        request = messages.RotateKeyRequest(name=key_name(name), etag=etag)
        return self._caller.call(methods.ROTATE_KEY, request, **options)

    def activate(
        self,
        name: str,
        *,
        force: bool = False,
        etag: str = "",
        **options: Unpack[WriteOptions],
    ) -> messages.ActivateKeyVersionResponse:
        """Make a pending version current; `force`: although regions lack it."""
        request = messages.ActivateKeyVersionRequest(
            name=key_name(name), force=force, etag=etag
        )
        return self._caller.call(methods.ACTIVATE_KEY_VERSION, request, **options)

    def rotation_policy(
        self, name: str, **options: Unpack[Options]
    ) -> messages.RotationPolicy:
        """Read when a key rotates by itself; an empty policy: never."""
        request = messages.GetRotationPolicyRequest(name=_policy_name(name))
        return self._caller.call(methods.GET_ROTATION_POLICY, request, **options)

    def set_rotation_policy(
        self,
        name: str,
        *,
        rotate_after_create: dt.timedelta | None = None,
        rotate_before_expire: dt.timedelta | None = None,
        expire_after: dt.timedelta | None = None,
        etag: str = "",
        **options: Unpack[WriteOptions],
    ) -> messages.RotationPolicy:
        """Replace the rotation policy of a key; without durations it is taken away."""
        policy = messages.RotationPolicy(
            name=_policy_name(name),
            rotate_after_create=_duration(rotate_after_create),
            rotate_before_expire=_duration(rotate_before_expire),
            expire_after=_duration(expire_after),
            etag=etag,
        )
        request = messages.UpdateRotationPolicyRequest(rotation_policy=policy)
        return self._caller.call(methods.UPDATE_ROTATION_POLICY, request, **options)

    def deleted(self, name: str, **options: Unpack[Options]) -> Key:
        """Read a soft-deleted key: when it is purged, and its recovery level."""
        request = messages.GetDeletedKeyRequest(name=key_name(name))
        return self._caller.call(methods.GET_DELETED_KEY, request, **options)

    def list_deleted(self, **options: Unpack[Options]) -> Iterator[Key]:
        """Go through the soft-deleted keys by name, page by page."""
        token = ""
        while True:
            page = self._caller.call(
                methods.LIST_DELETED_KEYS,
                messages.ListDeletedKeysRequest(page_size=PAGE, page_token=token),
                **options,
            )
            yield from page.keys
            token = page.next_page_token
            if not token:
                return

    def delete(
        self, name: str, *, etag: str = "", **options: Unpack[WriteOptions]
    ) -> Key:
        """Soft-delete: unusable at once, recoverable until `purge_time`."""
        request = messages.DeleteKeyRequest(name=key_name(name), etag=etag)
        return self._caller.call(methods.DELETE_KEY, request, **options)

    def recover(
        self, name: str, *, etag: str = "", **options: Unpack[WriteOptions]
    ) -> Key:
        """Bring a deleted key back exactly as it was."""
        request = messages.RecoverKeyRequest(name=key_name(name), etag=etag)
        return self._caller.call(methods.RECOVER_KEY, request, **options)

    def purge(
        self, name: str, *, etag: str = "", **options: Unpack[WriteOptions]
    ) -> str:
        """End a deleted key for good, in every region. Returns the position."""
        request = messages.PurgeKeyRequest(name=key_name(name), etag=etag)
        return self._caller.call(methods.PURGE_KEY, request, **options).position

    def public_key(self, name: str, **options: Unpack[Options]) -> messages.PublicKey:
        """Return the public half of a version, in PEM and DER."""
        request = messages.GetPublicKeyRequest(name=key_name(name))
        return self._caller.call(methods.GET_PUBLIC_KEY, request, **options)
