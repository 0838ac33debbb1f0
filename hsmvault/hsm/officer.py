"""The officer's process: one token, both its PINs, one task per line.

Officer and user cannot both be logged in to one token in one process, and no serving
process may ever hold the officer's PIN. So ceremonies have a process of their own. PINs
come in by its standard input, and are never in arguments, environment, logs or errors.
The process ends when its standard input does, and its session objects with it.
"""

import json
import os
import resource
import selectors
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import MappingProxyType, TracebackType
from typing import IO, Final, Self

from hsmvault.hsm.ceremony import Ceremony
from hsmvault.hsm.cryptoki import Cryptoki, Refused
from hsmvault.hsm.custody import Custody, patiently
from hsmvault.hsm.tasks import Fields, perform
from hsmvault.model import errors
from hsmvault.model.decoding import from_json
from hsmvault.model.errors import (
    ConfigurationError,
    InvalidRequest,
    PartitionLost,
    VaultError,
)

DEADLINE_SECONDS: Final = 120.0
"""For one task: generating an RSA-3072 key takes a token seconds, not minutes."""
_LINE_BYTES_MAX: Final = 1 << 20


def _open(first: Fields) -> Ceremony:
    cryptoki = Cryptoki(str(first["module"]))
    try:
        patiently(cryptoki.initialize)
    except Refused as error:
        message = f"{first['module']} cannot be initialised: {error}"
        raise ConfigurationError(message) from error
    return Ceremony(
        Custody(
            cryptoki,
            label=str(first["token_label"]),
            serial=str(first.get("token_serial") or ""),
            so_pin=_pin(first, "so_pin"),
            user_pin=_pin(first, "user_pin"),
        )
    )


def _pin(first: Fields, name: str) -> bytes:
    given = first.get(name)
    if given is not None:
        return str(given).encode()
    path = first.get(f"{name}_file")
    if path is None:
        return b""
    try:
        return Path(path).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        message = f"cannot read the PIN file {path}: {error.strerror}"
        raise ConfigurationError(message) from error


def _line(stream: IO[bytes]) -> Fields | None:
    raw = stream.readline(_LINE_BYTES_MAX)
    if not raw:
        return None
    try:
        fields = from_json(raw)
    except ValueError as error:
        # `from None`: the original would quote the line, and lines carry PINs.
        del error
        raise InvalidRequest("a line is not JSON") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("a line is not an object")
    return fields


def _failure(error: VaultError | ConfigurationError) -> Fields:
    return {
        "ok": False,
        "error": type(error).__name__,
        "message": str(error),
        "facts": error.facts if isinstance(error, VaultError) else {},
    }


def main(read: IO[bytes], write: IO[bytes]) -> int:
    """Serve one token until `read` ends. Returns the process's exit code."""
    # A core file would hold both PINs.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ceremony: Ceremony | None = None
    while True:
        try:
            task = _line(read)
            if task is None:
                break
            if ceremony is None:
                ceremony = _open(task)
                reply: Fields = {}
            else:
                reply = perform(ceremony, task)
            reply = {"ok": True, **reply}
        except (VaultError, ConfigurationError) as error:
            reply = _failure(error)
        write.write(json.dumps(reply).encode() + b"\n")
        write.flush()
    if ceremony is not None:
        ceremony.close()
    return 0


class OfficerProcess:
    """An officer's process, from the other side. A context manager; one caller."""

    def __init__(
        self,
        *,
        module: str | Path,
        token_label: str,
        token_serial: str = "",
        so_pin: str | None = None,
        so_pin_file: Path | None = None,
        user_pin: str | None = None,
        user_pin_file: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Say which token. `environment` is added to ours, and holds no PIN."""
        self._environment: Final = {**os.environ, **(environment or {})}
        self._label: Final = token_label
        self._first: Final = {
            "module": str(module),
            "token_label": token_label,
            "token_serial": token_serial,
            "so_pin": so_pin,
            "so_pin_file": str(so_pin_file) if so_pin_file else None,
            "user_pin": user_pin,
            "user_pin_file": str(user_pin_file) if user_pin_file else None,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def __repr__(self) -> str:
        return f"OfficerProcess({self._label!r})"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hsmvault.hsm.officer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
        )
        try:
            self._exchange(self._first, DEADLINE_SECONDS)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, task: Fields, *, deadline: float = DEADLINE_SECONDS) -> Fields:
        """Have a task done and return its answer.

        Raises what the officer raised: a VaultError or ConfigurationError of
        `model/errors.py`. Raises PartitionLost when the process ended or hangs.
        """
        return self._exchange(task, deadline)

    def close(self) -> None:
        """End the process, and with it its session objects."""
        process, self._process = self._process, None
        if process is None or process.stdin is None or process.stdout is None:
            return
        with _ended():
            process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _exchange(self, message: Fields, deadline: float) -> Fields:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise PartitionLost(
                "the officer's process of {token} is not running", token=self._label
            )
        with _ended():
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
        reply = from_json(self._read_line(process.stdout.fileno(), deadline))
        if reply.pop("ok"):
            return MappingProxyType(reply)
        raise _raised(reply)

    def _read_line(self, fd: int, deadline: float) -> bytes:
        end = monotonic() + deadline
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, end - monotonic())):
                    self._kill()
                    raise PartitionLost(
                        "the officer of {token} did not answer in {seconds:g} s",
                        token=self._label,
                        seconds=deadline,
                    )
                more = os.read(fd, 1 << 16)
                if not more:
                    raise PartitionLost(
                        "the officer's process of {token} ended", token=self._label
                    )
                self._unread += more
        line, self._unread = self._unread.split(b"\n", 1)
        return line

    def _kill(self) -> None:
        # An answer that comes late would be taken for the next one's.
        if self._process is not None:
            self._process.kill()


@contextmanager
def _ended() -> Iterator[None]:
    """Ignore a pipe whose reader has ended; reading the answer says so better."""
    try:
        yield
    except BrokenPipeError:
        return


def _raised(reply: Fields) -> Exception:
    message = str(reply["message"])
    kind = getattr(errors, str(reply["error"]), None)
    if isinstance(kind, type) and issubclass(kind, ConfigurationError):
        return kind(message)
    if not (isinstance(kind, type) and issubclass(kind, VaultError)):
        kind = VaultError
    error = kind(message.replace("{", "{{").replace("}", "}}"))
    error.facts.update(reply["facts"])
    return error


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer, sys.stdout.buffer))
