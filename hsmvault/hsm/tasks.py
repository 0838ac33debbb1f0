"""Everything that an officer's process can be asked for, from message to message."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from hsmvault.hsm.ceremony import Ceremony
from hsmvault.hsm.cryptoki import Refused
from hsmvault.hsm.custody import lost
from hsmvault.hsm.transcript import Answer, Context, Offer
from hsmvault.model.errors import InvalidRequest

Fields = Mapping[str, Any]
"""A message: one JSON object, bytes in hex."""


def _hex(fields: Fields, name: str) -> bytes:
    return bytes.fromhex(fields[name])


def _init_token(ceremony: Ceremony, task: Fields) -> Fields:
    serial = ceremony.init_token(
        task["label"],
        reinitialise=bool(task.get("reinitialise", False)),
        beside=bool(task.get("beside", False)),
    )
    return {"serial": serial}


def _wipe(ceremony: Ceremony, task: Fields) -> Fields:
    ceremony.wipe(task["label"])
    return {}


def _birth_identity(ceremony: Ceremony, task: Fields) -> Fields:
    public_key = ceremony.birth_identity(task["region"], task["partition"])
    return {"public_key": public_key.hex()}


def _birth_region(ceremony: Ceremony, task: Fields) -> Fields:
    return {"made": ceremony.birth_region(task["region"])}


def _birth_pair(ceremony: Ceremony, task: Fields) -> Fields:
    ceremony.birth_pair(task["sender"], task["receiver"])
    return {}


def _inspect(ceremony: Ceremony, _: Fields) -> Fields:
    keys, wrong = ceremony.inspect()
    return {"keys": keys, "wrong": wrong}


def _offer(ceremony: Ceremony, task: Fields) -> Fields:
    return ceremony.carriage.offer(Context.read(task["context"])).wire()


def _answer(ceremony: Ceremony, task: Fields) -> Fields:
    agreed = task.get("context")
    answer = ceremony.carriage.answer(
        Offer.read(task["offer"]),
        _hex(task, "peer_identity"),
        expected=Context.read(agreed) if agreed is not None else None,
    )
    return answer.wire()


def _install(ceremony: Ceremony, task: Fields) -> Fields:
    answer = Answer.read(task["answer"])
    installed = ceremony.carriage.install(answer, _hex(task, "peer_identity"))
    return {"installed": installed}


TASKS: Final[Mapping[str, Callable[[Ceremony, Fields], Fields]]] = MappingProxyType(
    {
        "init_token": _init_token,
        "wipe": _wipe,
        "birth_identity": _birth_identity,
        "birth_region": _birth_region,
        "birth_pair": _birth_pair,
        "inspect": _inspect,
        "offer": _offer,
        "answer": _answer,
        "install": _install,
    }
)
"""Everything an officer can be asked for. There is no task that reads a key."""


def perform(ceremony: Ceremony, task: Fields) -> Fields:
    """Do one task, or raise a VaultError or ConfigurationError."""
    work = TASKS.get(str(task.get("task")))
    if work is None:
        raise InvalidRequest(
            "unknown task; an officer knows {known}", known=", ".join(TASKS)
        )
    try:
        return work(ceremony, task)
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidRequest(
            "malformed task {task}: {problem}",
            task=str(task["task"]),
            problem=type(error).__name__,
        ) from error
    except Refused as error:
        raise lost(error) from error
