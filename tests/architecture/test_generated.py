"""What is generated is committed, current, and typed."""

import os
import subprocess
import sys

from tests.architecture.house import HOUSE


def test_generated_code_is_what_the_protos_say() -> None:
    checked = subprocess.run(
        ["./scripts/proto", "--check"],
        cwd=HOUSE,
        env={**os.environ, "VENV": sys.prefix},
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_proto_lies_where_its_package_says() -> None:
    for path in (HOUSE / "proto").rglob("*.proto"):
        package = ".".join(path.parent.relative_to(HOUSE / "proto").parts)
        assert f"\npackage {package};\n" in path.read_text(), path
