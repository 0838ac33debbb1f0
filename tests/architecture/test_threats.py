"""Every known attack and bad input has a test by its id, or a reason to have none.

The ids: AZ is authorisation and identity, CR cryptography and PKCS#11, RS resources and
protocol, AU audit.
"""

import ast
import re
from collections.abc import Iterator
from typing import Final

from tests.architecture.house import HOUSE

KNOWN: Final = {
    f"{group}-{number:02}"
    for group, last in (("AZ", 20), ("CR", 18), ("RS", 10), ("AU", 7))
    for number in range(1, last + 1)
}
_IN_A_NAME: Final = re.compile(r"(?:^|_)(az|cr|rs|au)_(\d\d)(?=_|$)")


def _names() -> Iterator[str]:
    for path in (HOUSE / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                # A file about one id has it in its own name.
                yield f"{path.stem} {node.name}".replace(" ", "_")


def _tested() -> set[str]:
    return {
        f"{group.upper()}-{number}"
        for name in _names()
        for group, number in _IN_A_NAME.findall(name)
    }


def _excused() -> set[str]:
    text = (HOUSE / "ARCHITECTURE.md").read_text()
    _, _, section = text.partition("Inputs and attacks that cannot apply\n")
    return set(re.findall(r"\b(?:AZ|CR|RS|AU)-\d\d\b", section))


def test_every_threat_has_a_test_by_its_id_or_a_reason_to_have_none() -> None:
    assert KNOWN - _tested() - _excused() == set()


def test_no_test_bears_an_id_that_there_is_not() -> None:
    assert (_tested() | _excused()) - KNOWN == set()
