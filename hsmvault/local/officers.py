"""The officers of this region: spawned from a directory of SO PINs, or attached.

With a directory, for development, an officer's process is started when it is needed.
Without one, an operator runs `hsmvault ceremony DIR` and types the PINs there; that
process lends its officers over ManagerWork.AttachOfficer for as long as it runs.
"""

import itertools
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hsmvault.local.v1 import local_service_pb2 as pb
from hsmvault.model import errors
from hsmvault.model.decoding import from_json
from hsmvault.model.errors import (
    ConfigurationError,
    InvalidRequest,
    Unavailable,
    VaultError,
    WrongState,
)
from hsmvault.regions.layout import PARTITIONS

if TYPE_CHECKING:
    from hsmvault.hsm.officer import OfficerProcess

Task = Mapping[str, object]

_TASK_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class OfficerToken:
    """A token, and where its PINs are."""

    module: Path
    label: str
    serial: str
    user_pin_file: Path
    environment: Mapping[str, str]
    so_pin_file: Path | None
    """None: only who attaches knows it."""

    def process(self, *, so_pin: str | None = None) -> "OfficerProcess":
        """Return an officer's process for it; not started yet."""
        # Late: the pool manager seldom needs one, and it takes long to import.
        from hsmvault.hsm.officer import OfficerProcess

        return OfficerProcess(
            module=self.module,
            token_label=self.label,
            token_serial=self.serial,
            so_pin=so_pin,
            so_pin_file=None if so_pin else self.so_pin_file,
            user_pin_file=self.user_pin_file,
            environment=self.environment,
        )


class _Attached:
    """An operator's officers at the other end of a stream."""

    def __init__(self, partitions: frozenset[str]) -> None:
        self.partitions = partitions
        self.tasks: queue.Queue[pb.OfficerTask] = queue.Queue()
        self._ids = itertools.count(1)
        self._waiting: dict[int, Future[str]] = {}

    def ask(self, partition: str, task: Task) -> Task:
        number = next(self._ids)
        answer: Future[str] = Future()
        self._waiting[number] = answer
        self.tasks.put(
            pb.OfficerTask(id=number, partition=partition, task=json.dumps(dict(task)))
        )
        try:
            reply = from_json(answer.result(_TASK_SECONDS))
        except FutureTimeoutError as error:
            raise Unavailable(
                "the attached officer of {partition} does not answer",
                partition=partition,
            ) from error
        finally:
            self._waiting.pop(number, None)
        if reply.pop("ok", False):
            return dict(reply)
        raise _error(reply)

    def answered(self, reply: pb.OfficerReply) -> None:
        waiting = self._waiting.get(reply.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply.reply)

    def gone(self) -> None:
        for waiting in list(self._waiting.values()):
            if not waiting.done():
                waiting.set_exception(Unavailable("the attached officer left"))


class LocalOfficers:
    """regions.ports.Officers: one per partition of this region."""

    def __init__(self, tokens: Mapping[str, OfficerToken]) -> None:
        """Start nothing; a process lives from the first `ask` to `dismiss`."""
        self._tokens = tokens
        self._locks = {name: threading.Lock() for name in tokens}
        self._processes: dict[str, OfficerProcess] = {}
        self._attached: _Attached | None = None
        self._attaching = threading.Lock()

    def present(self) -> bool:
        """Tell whether officers can work now."""
        return self._attached is not None or all(
            token.so_pin_file is not None and token.so_pin_file.exists()
            for token in self._tokens.values()
        )

    def ask(self, partition: str, task: Task) -> Mapping[str, object]:
        """Have one partition's officer do a task of hsm/officer.py."""
        if partition not in self._tokens:
            raise InvalidRequest(
                "this region has no partition {partition!r}", partition=partition[:50]
            )
        attached = self._attached
        if attached is not None:
            return attached.ask(partition, task)
        with self._locks[partition]:
            return self._process(partition).ask(task)

    def _process(self, partition: str) -> "OfficerProcess":
        known = self._processes.get(partition)
        if known is not None:
            return known
        token = self._tokens[partition]
        if token.so_pin_file is None or not token.so_pin_file.exists():
            raise WrongState(
                "no officer is here for {partition}; run hsmvault ceremony with the "
                "region's directory, and type the SO PINs",
                partition=partition,
            )
        process = token.process()
        process.__enter__()
        self._processes[partition] = process
        return process

    def dismiss(self) -> None:
        """End the officer processes; an attached operator stays attached."""
        for name, lock in self._locks.items():
            with lock:
                process = self._processes.pop(name, None)
                if process is not None:
                    process.close()

    def attached(
        self, replies: Iterator[pb.OfficerReply], active: Callable[[], bool]
    ) -> Iterator[pb.OfficerTask]:
        """Lend an operator's officers to the region while the stream lasts."""
        greeting = next(replies, None)
        if greeting is None:
            return
        officer = _Attached(frozenset(greeting.partitions))
        if officer.partitions != frozenset(PARTITIONS):
            raise InvalidRequest(
                "an officer must bring the SO PINs of {wanted}",
                wanted=", ".join(PARTITIONS),
            )
        with self._attaching:
            if self._attached is not None:
                raise WrongState(
                    "an officer is attached to this region already; end that "
                    "hsmvault ceremony first"
                )
            self._attached = officer
        listener = threading.Thread(
            target=_listen, args=(officer, replies), name="officer", daemon=True
        )
        listener.start()
        try:
            while active() and listener.is_alive():
                try:
                    yield officer.tasks.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
        finally:
            self._attached = None
            officer.gone()


def _listen(officer: _Attached, replies: Iterator[pb.OfficerReply]) -> None:
    try:
        for reply in replies:
            officer.answered(reply)
    except Exception:  # noqa: BLE001, S110 (gRPC raises a bare Exception at the end)
        pass


def _error(reply: Mapping[str, object]) -> Exception:
    kind = getattr(errors, str(reply.get("error")), None)
    message = str(reply.get("message"))
    if isinstance(kind, type) and issubclass(kind, ConfigurationError):
        return kind(message)
    if isinstance(kind, type) and issubclass(kind, VaultError):
        return errors.complete(kind, message, {})
    return errors.complete(Unavailable, message, {})
