"""A throw-away PostgreSQL server, on a Unix socket in a directory of its own."""

import glob
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_PROGRAMS: Final = "/usr/lib/postgresql/*/bin"


def programs() -> Path | None:
    """Find the newest server: in PATH, or where Debian keeps it."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    kept = sorted(glob.glob(_PROGRAMS), key=lambda p: int(p.split("/")[4]))  # noqa: PTH207
    return Path(kept[-1]) if kept else None


@contextmanager
def server(bin_dir: Path) -> Iterator[str]:
    """Run a server; gives the URL of its empty database `postgres`."""
    # The server refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="hsmvault-pg-"))
    if user is not None:
        shutil.chown(home, user)
    data = home / "data"

    def run(program: str, *arguments: str) -> None:
        # Output goes to files: a server that outlives its starter would keep a pipe.
        with (home / "output").open("ab") as output:
            subprocess.run(
                [bin_dir / program, "-D", data, *arguments],
                check=True,
                cwd=home,
                user=user,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    try:
        run("initdb", "--auth=trust", "--username=vault", "--no-sync")
        # What it holds is thrown away, so nothing waits for a disk.
        options = (
            f"-c listen_addresses='' -c unix_socket_directories={home} "
            "-c fsync=off -c full_page_writes=off -c max_connections=200"
        )
        log = str(home / "log")
        run("pg_ctl", "start", "--wait", "--log", log, "--options", options)
        try:
            yield f"postgresql://vault@/postgres?host={home}"
        finally:
            run("pg_ctl", "stop", "--wait", "--mode", "immediate")
    finally:
        shutil.rmtree(home, ignore_errors=True)
