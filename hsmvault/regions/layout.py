"""Where everything of a region lies: one directory, made by `hsmvault region init`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

PARTITIONS: Final = ("p0", "p1", "p2")
"""The partitions of a region. Each is a token of its own, served by a process."""

SUPERVISOR: Final = "supervisor"
MANAGER: Final = "manager"
"""The other processes of a region, by the names that they have in logs and trails."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths inside one region's directory. Makes nothing and reads nothing."""

    directory: Path

    @property
    def config(self) -> Path:
        """The settings. It gets this name last, so a directory that has it is whole."""
        return self.directory / "region.toml"

    @property
    def incomplete(self) -> Path:
        """What the settings are called until everything else is there."""
        return self.directory / "region.toml.incomplete"

    @property
    def purged(self) -> Path:
        """The note that a purged region leaves behind."""
        return self.directory / "PURGED"

    @property
    def card(self) -> Path:
        """What other regions must know of this one; public."""
        return self.directory / "card.json"

    @property
    def secrets(self) -> Path:
        """The user PINs; 0700."""
        return self.directory / "secrets"

    def pin(self, partition: str) -> Path:
        """The user PIN of one partition; 0600."""
        return self.secrets / f"{partition}.pin"

    @property
    def tls(self) -> Path:
        """Certificates, and their keys; 0700."""
        return self.directory / "tls"

    @property
    def server_certificate(self) -> Path:
        """The public listener's certificate, from the vault's CA."""
        return self.tls / "server.pem"

    @property
    def server_key(self) -> Path:
        """The public listener's key; 0600."""
        return self.tls / "server.key"

    @property
    def client_ca(self) -> Path:
        """The CA whose certificates identify callers."""
        return self.tls / "ca.pem"

    @property
    def private_certificate(self) -> Path:
        """The region's identity towards other regions, which pin it."""
        return self.tls / "private.pem"

    @property
    def private_key(self) -> Path:
        """The key of the region's identity; 0600."""
        return self.tls / "private.key"

    @property
    def peers(self) -> Path:
        """The regions that this one trusts before it has a log."""
        return self.tls / "peers.pem"

    @property
    def joined(self) -> Path:
        """The card of the primary that this region was made to follow."""
        return self.directory / "primary.json"

    def token(self, partition: str) -> Path:
        """Where SoftHSM keeps one partition."""
        return self.directory / "tokens" / partition

    def softhsm_conf(self, partition: str) -> Path:
        """SoftHSM's configuration for one partition."""
        return self.token(partition) / "softhsm2.conf"

    @property
    def store_directory(self) -> Path:
        """Where the store lies."""
        return self.directory / "store"

    @property
    def store(self) -> Path:
        """The store, while it is SQLite."""
        return self.store_directory / "vault.db"

    @property
    def run(self) -> Path:
        """Sockets, lock and status of the running region; 0700."""
        return self.directory / "run"

    @property
    def lock(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.run / "supervisor.lock"

    @property
    def status(self) -> Path:
        """What the supervisor knows of its processes, as JSON."""
        return self.run / "status.json"

    def socket(self, partition: str) -> Path:
        """Where a partition server takes work from the region's other processes."""
        return self.run / f"{partition}.sock"

    @property
    def manager_socket(self) -> Path:
        """Where the pool manager takes work."""
        return self.run / "manager.sock"

    @property
    def logs(self) -> Path:
        """Events of the region's processes."""
        return self.directory / "logs"

    @property
    def audit(self) -> Path:
        """The audit trails of the region's processes; 0700."""
        return self.directory / "audit"
