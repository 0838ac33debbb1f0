"""BackupKey and RestoreKey: parse, call, convert."""

from dataclasses import dataclass

from hsmvault.api import convert
from hsmvault.api.checksums import crc32c, require_intact
from hsmvault.api.dispatch import Call, requested
from hsmvault.model.backup import KeyBackup
from hsmvault.model.key_records import KeyRecord
from hsmvault.model.names import KeyName
from hsmvault.v1 import key_service_pb2 as pb
from hsmvault.v1 import resources_pb2
from hsmvault.vault.backups import Backups


@dataclass(frozen=True, slots=True)
class BackupServicer:
    """Those RPCs of KeyService by which keys are carried out and back."""

    backups: Backups

    def backup_key(
        self, request: pb.BackupKeyRequest, _call: Call
    ) -> pb.BackupKeyResponse:
        made = self.backups.backup(KeyName.parse(request.name))
        raw = made.to_bytes()
        return pb.BackupKeyResponse(
            backup=raw,
            backup_crc32c=crc32c(raw),
            name=KeyRecord.from_bytes(made.key).name,
            versions=len(made.versions),
        )

    def restore_key(
        self, request: pb.RestoreKeyRequest, call: Call
    ) -> resources_pb2.Key:
        require_intact(request, "backup", request.backup)
        backup = KeyBackup.from_bytes(request.backup)
        return convert.key(self.backups.restore(requested(request, call), backup))
