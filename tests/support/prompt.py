"""Running `hsmvault …` inside the test's process: exit code, stdout, stderr."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from hsmvault.cli.main import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def hsmvault(
    *arguments: object,
    stdin: bytes = b"",
    environment: Mapping[str, str | None] | None = None,
) -> Ended:
    """Run one command as a person would, with these arguments and this input."""
    runner = CliRunner()
    # A person's own profile must not decide what a test does.
    clean = {"HSMVAULT_PROFILE": None, "HSMVAULT_OUTPUT": None, "COLUMNS": "200"}
    clean |= environment or {}
    with runner.isolation(input=stdin, env=clean) as (out, err, _):
        try:
            main([str(a) for a in arguments])
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ended(code, out.getvalue(), err.getvalue().decode())
