"""A process under a supervisor that does as it is told: `python -m ... DEED`.

Without HSM and without gRPC, so that what the supervisor does is all there is to see.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hsmvault.server.beat import Beat, Heart
from hsmvault.server.child import NEEDS_OPERATOR, PIN_REJECTED, Stop, begin, end


def serve(heart: Heart) -> None:
    heart.start()
    Stop().wait()
    end(heart, 0)


def hang(heart: Heart) -> None:
    """Say that all is well, and then nothing any more."""
    os.write(heart._fd, Beat(serving=True).line())
    time.sleep(600)


def wrong_pin(heart: Heart) -> None:
    end(heart, PIN_REJECTED, "the token refused the PIN")


def misconfigured(heart: Heart) -> None:
    end(heart, NEEDS_OPERATOR, "the token is another one")


def token_goes_away(heart: Heart) -> None:
    """Serve; and when started again, do not find the token any more."""
    been = Path(sys.argv[2])
    if been.exists():
        end(heart, NEEDS_OPERATOR, "no token")
    been.touch()
    os.write(heart._fd, Beat(serving=True).line())
    time.sleep(0.3)
    end(heart, 1, "the HSM is gone")


def crash(heart: Heart) -> None:
    end(heart, 1, "crashed")


DEEDS: dict[str, Callable[[Heart], None]] = {
    deed.__name__: deed
    for deed in (
        serve,
        hang,
        wrong_pin,
        misconfigured,
        token_goes_away,
        crash,
    )
}

if __name__ == "__main__":
    deed, place, *rest = sys.argv[1:]
    role = begin([place, *rest], name=deed)
    DEEDS[deed](Heart(role.beat_fd, lambda: Beat(serving=True)))
