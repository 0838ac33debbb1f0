"""Calls that come from another address of this machine, through a plain relay."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

ELSEWHERE: Final = "127.0.0.2"
"""All of 127.0.0.0/8 is this machine's."""


@contextmanager
def from_elsewhere(endpoint: str) -> Iterator[str]:
    """The address of a relay that connects to `endpoint` from ELSEWHERE."""
    host, _, port = endpoint.rpartition(":")
    loop = asyncio.new_event_loop()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Ended with the relay, or by whoever is at either end: all the same here.
        with contextlib.suppress(asyncio.CancelledError, OSError):
            there, back = await asyncio.open_connection(
                host, int(port), local_addr=(ELSEWHERE, 0)
            )
            await asyncio.gather(carry(reader, back), carry(there, writer))

    server = loop.run_until_complete(asyncio.start_server(relay, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(_ended(server))
        loop.close()


async def _ended(server: asyncio.Server) -> None:
    server.close()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
