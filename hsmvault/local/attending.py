"""An operator's officers at work for a running region.

The SO PINs stay in this process and its officers; only tasks and answers cross.
"""

import json
import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

from hsmvault.hsm.officer import OfficerProcess
from hsmvault.local import sockets
from hsmvault.local.officers import OfficerToken
from hsmvault.local.status import raised
from hsmvault.local.v1 import local_service_pb2 as pb
from hsmvault.local.v1 import local_service_pb2_grpc as pb_grpc
from hsmvault.model.decoding import from_json
from hsmvault.model.errors import ConfigurationError, VaultError
from hsmvault.regions.layout import Layout

Told = Callable[[str], None]


def attend(
    layout: Layout,
    tokens: Mapping[str, OfficerToken],
    so_pins: Mapping[str, str],
    *,
    told: Told,
) -> None:
    """Do a region's ceremonies until it ends, or this process is interrupted.

    Raises Unanswered when the region is not running.
    """
    with ExitStack() as stack:
        officers = {
            name: stack.enter_context(token.process(so_pin=so_pins[name]))
            for name, token in tokens.items()
        }
        channel = sockets.dial(layout.manager_socket)
        stack.callback(channel.close)
        replies: queue.Queue[pb.OfficerReply | None] = queue.Queue()
        stack.callback(replies.put, None)
        replies.put(pb.OfficerReply(partitions=list(officers)))
        stub = pb_grpc.ManagerWorkStub(channel)
        with raised("the pool manager"):
            for task in stub.AttachOfficer(_taken(replies)):
                asked = from_json(task.task)
                told(f"{task.partition}: {asked.get('task')}")
                done = _done(officers[task.partition], asked)
                if not done["ok"]:
                    # Who typed a wrong PIN is the one to hear of it.
                    told(f"{task.partition}: {done['message']}")
                replies.put(pb.OfficerReply(id=task.id, reply=json.dumps(done)))


def _taken(replies: "queue.Queue[pb.OfficerReply | None]") -> Iterator[pb.OfficerReply]:
    """Yield what is put into the queue, until that is None."""
    while (reply := replies.get()) is not None:
        yield reply


def _done(officer: OfficerProcess, task: Mapping[str, object]) -> Mapping[str, object]:
    try:
        return {"ok": True, **officer.ask(task)}
    except (VaultError, ConfigurationError) as error:
        return {"ok": False, "error": type(error).__name__, "message": str(error)}
