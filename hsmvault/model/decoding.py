"""Reading JSON that a stranger may have written."""

import json
from typing import Any


def from_json(text: str | bytes) -> Any:
    """Return what the text says, or raise ValueError, whatever is wrong with it."""
    try:
        return json.loads(text)
    except RecursionError as error:
        # A RuntimeError, which no reader expects of mere text.
        raise ValueError("nested too deeply") from error
