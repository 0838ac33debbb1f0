"""What must be there, and readable by nobody else, before a region starts."""

from pathlib import Path

from hsmvault.config import PRIMARY, RegionConfig
from hsmvault.model.errors import ConfigurationError
from hsmvault.regions.files import require_private

SOCKET_PATH_MAX = 107
"""sockaddr_un holds 108 bytes, the last of them zero."""


def require_startable(settings: RegionConfig) -> None:
    """Raise ConfigurationError for whatever would keep every process from serving."""
    layout = settings.layout
    longest = str(layout.manager_socket)
    if len(longest.encode()) > SOCKET_PATH_MAX:
        raise ConfigurationError(
            f"{layout.directory} is too long a name: the path of a socket in it may "
            f"have {SOCKET_PATH_MAX} bytes, and {longest} has more. Move the directory"
        )
    for partition in settings.partitions.values():
        require_module(partition.module)
        require_secret(partition.user_pin_file)
    if not layout.server_certificate.exists():
        raise ConfigurationError(
            f"{layout.server_certificate} is missing: "
            + (
                "run hsmvault vault init first; it certifies the region's listener"
                if settings.region.kind == PRIMARY
                else "have the vault's CA certify this region's listener, and put "
                "server.pem, server.key and ca.pem there"
            )
        )
    for key in (layout.server_key, layout.private_key):
        require_private(key)
    officer = settings.officer.directory
    if officer is not None and officer.exists():
        for path in sorted(officer.glob("*.so-pin")):
            require_private(path)


def require_module(module: Path) -> None:
    """Raise ConfigurationError unless the PKCS#11 module is there."""
    if not module.exists():
        raise ConfigurationError(
            f"there is no PKCS#11 module {module}; install SoftHSM2 (on Debian: "
            "apt-get install softhsm2), or correct `module` in region.toml"
        )


def require_secret(path: Path) -> None:
    """Raise ConfigurationError unless there is a secret that only its owner can read.

    Does not read it: the supervisor has no business knowing it.
    """
    require_private(path)
    if not path.stat().st_size:
        raise ConfigurationError(f"{path} is empty; it must hold the PIN")


def read_secret(path: Path) -> str:
    """Read a PIN; refuses a file that others may read."""
    require_secret(path)
    return path.read_text(encoding="utf-8").rstrip("\r\n")
