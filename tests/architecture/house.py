"""What the house is made of: its files, found by walking, without version control."""

import re
from pathlib import Path

HOUSE = Path(__file__).parents[2]

_LEFT_OUT = {"build", "regions", "north", "south", "officer", "callers", "ca"}
_NEVER_COMMITTED = {".key", ".pem", ".der", ".blob", ".backup"}
"""What tools and developers make here, and who tries what the README shows."""


def _is_ours(top: Path) -> bool:
    hidden = top.name.startswith(".") and top.name not in {".ci", ".gitignore"}
    made = top.name in _LEFT_OUT or top.suffix in {*_NEVER_COMMITTED, ".egg-info"}
    return not (hidden or made)


FILES = sorted(
    path
    for top in filter(_is_ours, HOUSE.iterdir())
    for path in ([top] if top.is_file() else top.rglob("*"))
    if path.is_file() and "__pycache__" not in path.parts
)
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
