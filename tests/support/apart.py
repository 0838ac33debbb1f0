"""Running a function in a process of its own: each loads a PKCS#11 module once."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_ROOT: Final = Path(__file__).resolve().parents[2]
_SECONDS: Final = 120


def apart(environment: Mapping[str, str], function: Callable[P, T]) -> Callable[P, T]:
    """Return `function`, to be run in a fresh process with these variables set.

    What it raises is raised here. A process that does not answer raises RuntimeError
    with its exit code: negative where a signal ended it.
    """

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.apart"],
            input=pickle.dumps((function, args, kwargs)),
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            cwd=_ROOT,
            env={**os.environ, **environment},
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace")[-2000:]
            raise RuntimeError(f"exit code {done.returncode}: {said}")
        answer, error = pickle.loads(done.stdout)  # noqa: S301  # our own child
        if error is not None:
            raise error
        return answer

    return run


def _main() -> None:
    function, args, kwargs = pickle.load(sys.stdin.buffer)  # noqa: S301
    try:
        answer, error = function(*args, **kwargs), None
    except Exception as raised:  # noqa: BLE001  # handed to the parent, which raises it
        answer, error = None, raised
    sys.stdout.buffer.write(pickle.dumps((answer, error)))


if __name__ == "__main__":
    _main()
