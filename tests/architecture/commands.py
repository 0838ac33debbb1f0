"""Whether a line that starts with `hsmvault` is one that the CLI understands."""

import click

from hsmvault.cli.main import cli


def misunderstood(words: list[str]) -> str:
    """Say what the CLI does not know in these words; "" if it knows all of them."""
    words = list(words)
    command: click.Command = cli
    known = {"--help", *_options(cli)}
    while isinstance(command, click.Group):
        place = next((i for i, w in enumerate(words) if w in command.commands), None)
        if place is None:
            return "" if "--help" in words else f"no command in: {' '.join(words)}"
        command = command.commands[words.pop(place)]
        known |= _options(command)
    asked = {w.partition("=")[0] for w in words if w.startswith("--") and w != "--"}
    return " ".join(asked - known)


def _options(command: click.Command) -> set[str]:
    return {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
