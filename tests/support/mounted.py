"""A small disk of a region's own, in a mount namespace that only its processes are in.

Whoever may make one may run these tests: root, or anybody where the kernel lets users
have namespaces. It goes with the region's last process.
"""

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.regions import LiveRegion

_OWN: Final = () if os.geteuid() == 0 else ("--user",)
_NAMESPACE: Final = (
    *("unshare", "--mount", "--propagation", "private"),
    *("--map-root-user" for _ in _OWN),
)
_MOUNT: Final = 'mount -t tmpfs -o "$1" audit "$2" && shift 2 && exec "$@"'


def require_mounts() -> None:
    """Skip the test where the kernel lets us mount nothing."""
    tried = subprocess.run(
        [*_NAMESPACE, "sh", "-c", _MOUNT, "sh", "size=1m", "/mnt", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.strip()}")


class AuditDisk:
    """What a region's audit trails lie on."""

    def __init__(self, region: LiveRegion, options: str) -> None:
        """To be mounted, so, when the region is served `under` this."""
        self._region = region
        self._directory = region.layout.audit
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self.under = (
            *(*_NAMESPACE, "sh", "-c", _MOUNT, "sh"),
            *(f"{options},mode=700", str(self._directory)),
        )

    @property
    def path(self) -> Path:
        """The directory of the trails, as the region's processes see it."""
        return Path(f"/proc/{self._region.pid}/root{self._directory}")

    @property
    def free(self) -> int:
        """Bytes."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def remount(self, options: str) -> None:
        """Mount it anew, without anybody having to let go of it."""
        self.run("mount", "-o", f"remount,{options}", str(self._directory))

    def fill(self, *, leaving: int = 0) -> None:
        """Write until no more than that is free."""
        with (self.path / "filler").open("ab", buffering=0) as file:
            file.write(bytes(max(0, self.free - leaving)))

    def clear(self) -> None:
        """Take away what `fill` wrote."""
        (self.path / "filler").unlink()

    def run(self, *command: str) -> str:
        """Run a command that sees what the region's processes see."""
        enter = ("nsenter", "--target", str(self._region.pid), "--mount")
        own = (*_OWN, *("--preserve-credentials" for _ in _OWN))
        ended = subprocess.run(
            [*enter, *own, "--", *command], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout
