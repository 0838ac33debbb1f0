"""Streams: a first response that is a call like any other, and what comes after it."""

from collections.abc import Callable, Generator, Iterator

import grpc

from hsmvault.api.account import Account, Rest
from hsmvault.api.dispatch import Endpoint
from hsmvault.api.guard import Answer, Guard
from hsmvault.api.pools import BoundedPool, Seat
from hsmvault.api.status import abort


def streaming(
    guard: Guard, endpoint: Endpoint, pool: BoundedPool
) -> Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]:
    """Return what gRPC calls, in `pool`, for a stream. It gives two accounts.

    One of its beginning, before anything of it is answered, and one of its end. It ends
    as soon as its caller could not call again, and makes room as soon as they are gone.
    """

    def behave(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        told = Account(endpoint.method, context.peer(), abandon=context.cancel)
        answer = guard.answered(
            told, lambda: guard.come(endpoint, raw, context, waits=True, told=told)
        )
        rest = told.rest
        try:
            if answer.status is None and rest is not None:
                _vacated(context, rest, pool.seat)
                yield answer.response
                answer = yield from _continued(guard, told.again(), rest)
        finally:
            if rest is not None:
                rest.close()
        if answer.status is not None:
            abort(context, answer.status)

    return behave


def _vacated(context: grpc.ServicerContext, rest: Rest, seat: Seat) -> None:
    """Have a stream make room once its caller is gone, whatever its thread does.

    gRPC says so in the thread in which it takes calls up. So whoever cancels a stream
    and asks for another one finds room, however busy the thread of the first one is.
    """

    def gone() -> None:
        rest.give_up()
        seat.leave()

    if not context.add_callback(gone):
        gone()


def _continued(
    guard: Guard, told: Account, rest: Rest
) -> Generator[bytes, None, Answer]:
    """Give what a stream goes on with, and the account of how it ended."""

    def step() -> tuple[bytes, str]:
        response = next(rest, None)
        return b"" if response is None else response.SerializeToString(), rest.position

    answer = Answer(b"", rest.position)
    try:
        # No response is empty: each has a position.
        while (answer := guard.ended(told, step)).response:
            yield answer.response
    finally:
        # Here, too, when the caller went: then it ended well.
        answer = guard.recorded(told, Answer(b"", rest.position, answer.status))
    return answer
