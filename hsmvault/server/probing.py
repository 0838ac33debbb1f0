"""What the tokens of a region offer and enforce: `hsmvault partition probe DIR`."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hsmvault import config
from hsmvault.hsm.module import TokenAddress
from hsmvault.hsm.probe import probe
from hsmvault.model import errors
from hsmvault.model.errors import ConfigurationError, Unavailable, VaultError
from hsmvault.server.secrets import read_secret, require_module

_SECONDS: Final = 60.0


def probe_region(directory: Path) -> dict[str, dict[str, str]]:
    """Probe every token of a region, each in a process of its own."""
    settings = config.load(directory)
    return {
        name: _asked(directory, name, settings.environment(name))
        for name in settings.partitions
    }


def _asked(
    directory: Path, name: str, environment: Mapping[str, str]
) -> dict[str, str]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hsmvault.server.probing", str(directory), name],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise Unavailable(
            "partition {name} cannot be probed: its module hangs or crashes", name=name
        ) from error
    if "problem" not in answer:
        return answer
    kind = getattr(errors, answer["kind"])
    if issubclass(kind, ConfigurationError):
        raise kind(answer["problem"])
    raise errors.complete(kind, answer["problem"], {})


def main() -> None:
    """Probe one token, and print the findings as JSON."""
    settings = config.load(Path(sys.argv[1]))
    one = settings.partitions[sys.argv[2]]
    try:
        require_module(one.module)
        found = probe(
            TokenAddress(
                module=str(one.module),
                label=one.token_label,
                serial=one.token_serial,
                user_pin=read_secret(one.user_pin_file),
            )
        )
    except (VaultError, ConfigurationError) as error:
        json.dump({"problem": str(error), "kind": type(error).__name__}, sys.stdout)
        return
    facts = {
        "token": found.token,
        "model": found.model,
        "profile": found.profile.named,
        **{row.what: row.found for row in found.rows},
    }
    json.dump(facts, sys.stdout)


if __name__ == "__main__":
    main()
