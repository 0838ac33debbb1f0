"""KeyService: when keys rotate by themselves, and versions that are still pending."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.duration_pb2 import Duration

from hsmvault.api import convert
from hsmvault.api.dispatch import Call, requested
from hsmvault.api.ports import Manager
from hsmvault.model.errors import InvalidRequest, Unavailable
from hsmvault.model.key_records import KeyRecord
from hsmvault.model.log import Position
from hsmvault.model.names import VersionName, parse_rotation_policy
from hsmvault.model.rotation import Rotation
from hsmvault.v1 import key_service_pb2 as pb
from hsmvault.vault.catalogue import Catalogue
from hsmvault.vault.checked import Found
from hsmvault.vault.memory import Memory
from hsmvault.vault.rotating import KeyRotation, RotationPatch

SECONDS_MAX: Final = 315_576_000_000
"""Where google.protobuf.Duration ends."""
_FIELDS: Final = {
    "rotate_after_create": "after_create_ms",
    "rotate_before_expire": "before_expire_ms",
    "expire_after": "expire_after_ms",
}


@dataclass(frozen=True, slots=True)
class RotationServicer:
    """One method per RPC."""

    rotation: KeyRotation
    catalogue: Catalogue
    memory: Memory
    manager: Manager

    def get_rotation_policy(
        self, request: pb.GetRotationPolicyRequest, _call: Call
    ) -> pb.RotationPolicy:
        return _policy(self.catalogue.get(parse_rotation_policy(request.name)))

    def update_rotation_policy(
        self, request: pb.UpdateRotationPolicyRequest, call: Call
    ) -> pb.RotationPolicy:
        policy = request.rotation_policy
        named = list(_FIELDS)
        if request.update_mask.paths:
            named = convert.paths(policy, request.update_mask, known=named)
        patch = RotationPatch(
            **{_FIELDS[n]: _milliseconds(n, getattr(policy, n)) for n in named}
        )
        return _policy(
            self.rotation.update_policy(
                requested(request, call),
                parse_rotation_policy(policy.name),
                patch,
                etag=policy.etag,
            )
        )

    def activate_key_version(
        self, request: pb.ActivateKeyVersionRequest, call: Call
    ) -> pb.ActivateKeyVersionResponse:
        found, lacking = self.rotation.activate(
            requested(request, call),
            VersionName.parse(request.name),
            watermarks=self._watermarks(),
            force=request.force,
            etag=request.etag,
        )
        self.memory.refresh()
        held = self.memory.key(found.record.key.lower())
        return pb.ActivateKeyVersionResponse(
            key_version=convert.version(
                found, current=held.key.record.current if held else ""
            ),
            lacking_regions=[f"regions/{region}" for region in lacking],
            position=str(found.position),
        )

    def _watermarks(self) -> Mapping[str, Position]:
        try:
            state = self.manager.replication()
        except Unavailable:
            # Nobody knows how far they are: then they have nothing.
            return {}
        return {
            one.region: Position.parse(one.watermark)
            for one in state.followers
            if one.watermark
        }


def _policy(found: Found[KeyRecord]) -> pb.RotationPolicy:
    key = found.record
    rotation = key.rotation or Rotation()
    policy = pb.RotationPolicy(
        name=f"{key.name}/rotationPolicy",
        next_rotation_time=convert.timestamp(rotation.due_ms(key.expire_ms)),
        etag=found.etag,
        position=str(found.position),
    )
    for name, attribute in _FIELDS.items():
        value: int = getattr(rotation, attribute)
        if value:
            getattr(policy, name).CopyFrom(
                Duration(seconds=value // 1000, nanos=value % 1000 * 1_000_000)
            )
    return policy


def _milliseconds(name: str, duration: Duration) -> int:
    if (
        not 0 <= duration.seconds <= SECONDS_MAX or not 0 <= duration.nanos < 1e9  # noqa: PLR2004
    ):
        raise InvalidRequest("{name} is not a duration of 0 or more", name=name)
    return duration.seconds * 1000 + duration.nanos // 1_000_000
