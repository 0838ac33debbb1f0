"""What the house is made of: its files, found by walking, without version control."""

import re
from pathlib import Path

HOUSE = Path(__file__).parents[2]

_LEFT_OUT = {"build", "dev", "regions", "__pycache__"}
"""At the top: what tools and developers make here. Everywhere: compiled code."""


def _is_ours(path: Path) -> bool:
    parts = path.relative_to(HOUSE).parts
    return not (
        "__pycache__" in parts
        or parts[0] in _LEFT_OUT
        or (parts[0].startswith(".") and parts[0] not in {".ci", ".gitignore"})
        or parts[0].endswith(".egg-info")
    )


FILES = sorted(p for p in HOUSE.rglob("*") if p.is_file() and _is_ours(p))
"""Every file that is or will be committed."""

GENERATED = {p for p in FILES if re.search(r"_pb2(_grpc)?\.pyi?$", p.name)}


def _is_python(path: Path) -> bool:
    if path.suffix:
        return path.suffix == ".py"
    with path.open("rb") as file:
        return re.match(rb"#!.*python", file.readline()) is not None


SOURCES = [p for p in FILES if p not in GENERATED and _is_python(p)]
"""Every file of Python written by hand, scripts without a suffix included."""

PACKAGE = [p for p in SOURCES if p.is_relative_to(HOUSE / "hsmvault")]


def shown(path: Path) -> str:
    """Name a file in a test's id."""
    return str(path.relative_to(HOUSE))
