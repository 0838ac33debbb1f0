"""The raw token's rate: python-pkcs11 in one process, one thread, no transport."""

import json
import os
import sys
import time
from collections.abc import Callable

from scripts.benchmark.bare import bare_keys


def rate(operation: Callable[[], object], seconds: float) -> tuple[float, float]:
    """How often per second `operation` runs, back to back; and its CPU, in µs."""
    count, start, before = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - start) < seconds:
        operation()
        count += 1
    return count / elapsed, (time.process_time() - before) / count * 1e6


def main() -> None:
    """Measure as configured on standard input; print rates as JSON."""
    config = json.loads(sys.stdin.readline())
    [keys] = bare_keys(config["module"], config["label"], config["pin"], 1)
    seconds = float(config["seconds"])
    if config["core"] is not None:
        os.sched_setaffinity(0, {config["core"]})
    print(
        json.dumps(
            {
                "ES256": rate(keys.sign_p256, seconds),
                "PS256": rate(keys.sign_rsa, seconds),
                "A256GCM": rate(keys.encrypt, seconds),
                "create": rate(keys.create_p256, seconds),
                "open": rate(keys.open_p256, seconds),
            }
        )
    )


if __name__ == "__main__":
    main()
