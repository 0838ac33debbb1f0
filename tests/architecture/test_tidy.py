"""The manner of the house, where a test can hold it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.architecture.house import FILES, GENERATED, HOUSE, PACKAGE, SOURCES, shown

LINES_MAX = 400
TEST_LINES_MAX = 600
"""Tests are read one at a time."""
FUNCTION_LINES_MAX = 60

BANNED = {
    "base": "say what it is; there are no base classes here",
    "common": "put it in model, or in the one room that needs it",
    "helper": "name the room after what it is about",
    "helpers": "name the room after what it is about",
    "misc": "name the room after what it is about",
    "util": "name the room after what it is about",
    "utils": "name the room after what it is about",
}

CATCHES_ALL = {
    "hsmvault/api/guard.py": "callers see INTERNAL and an incident's id",
    "hsmvault/local/officers.py": "gRPC ends a cut stream with a bare Exception",
    "hsmvault/hsm/officer.py": "its answer is one line of JSON, whatever happened",
}
"""Where what we did not expect is caught for good, and what becomes of it."""

# The brackets keep the pattern from finding itself.
REGISTRIES = re.compile(
    r"py[p]i|python[h]osted|npm[j]s|crates[.]io|go[p]roxy", re.IGNORECASE
)
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{20}")


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in SOURCES:
        yield shown(path), ast.parse(path.read_text())


def test_a_module_fits_in_one_sitting() -> None:
    long = {}
    for path in SOURCES:
        lines = len(path.read_text().splitlines())
        is_test = path.is_relative_to(HOUSE / "tests")
        if lines > (TEST_LINES_MAX if is_test else LINES_MAX):
            long[shown(path)] = lines

    assert not long


def test_a_function_fits_on_one_screen() -> None:
    lengths = {
        f"{path}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert not {p: lines for p, lines in lengths.items() if lines > FUNCTION_LINES_MAX}


def test_no_name_says_only_that_something_is_inside() -> None:
    found = {
        shown(path): BANNED[part]
        for path in SOURCES
        for part in path.relative_to(HOUSE).with_suffix("").parts
        if part in BANNED
    }

    assert not found


def test_every_room_opens_with_its_charter_and_no_code() -> None:
    # Alembic loads its migrations by path.
    rooms = {p.parent for p in PACKAGE if "migrations" not in p.parts}
    wrong = []
    for room in rooms - {HOUSE / "hsmvault"}:
        charter = room / "__init__.py"
        tree = ast.parse(charter.read_text() if charter.exists() else "")
        if not ast.get_docstring(tree) or len(tree.body) != 1:
            wrong.append(shown(charter))

    assert not wrong


def test_importing_the_package_pulls_in_nothing() -> None:
    """`hsmvault.connect` is there for callers, and costs a partition nothing."""
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, hsmvault; print(*sys.modules)"],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    rooms = {name for name in loaded if name.startswith("hsmvault.")}
    assert not rooms | {"grpc", "pkcs11", "sqlalchemy"} & set(loaded)


def test_the_unexpected_is_caught_for_good_in_few_places() -> None:
    """A bug is not swallowed on its way up. Undoing and raising again is well."""
    broad = [
        f"{path}:{node.lineno}"
        for path, tree in trees()
        if path.startswith("hsmvault/") and path not in CATCHES_ALL
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and _ends(node)
    ]

    assert not broad


def _is_broad(handler: ast.ExceptHandler) -> bool:
    kind = handler.type
    return kind is None or (
        isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"}
    )


def _ends(handler: ast.ExceptHandler) -> bool:
    return not isinstance(handler.body[-1], ast.Raise)


@pytest.mark.parametrize("pattern", [REGISTRIES, PRIVATE_KEY], ids=("registry", "key"))
def test_no_file_names_a_package_registry_or_holds_a_private_key(
    pattern: re.Pattern[str],
) -> None:
    """Where packages come from is the business of whoever installs them."""
    found = {
        shown(path): match[0][:40]
        for path in FILES
        if path not in GENERATED
        and (match := pattern.search(path.read_text(errors="replace")))
    }

    assert not found


def test_every_script_can_be_run_and_says_what_for() -> None:
    wrong = []
    for path in FILES:
        first, _, rest = path.read_text(errors="replace").partition("\n")
        if not first.startswith("#!"):
            continue
        says = rest.startswith(("#", '"""')) or path.is_relative_to(HOUSE / ".ci")
        if not (path.stat().st_mode & 0o111 and says):
            wrong.append(shown(path))

    assert not wrong
