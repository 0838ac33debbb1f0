"""A development vault: up, up again, looked at, down."""

from pathlib import Path

import pytest

from hsmvault.model.errors import ConfigurationError
from hsmvault.server.dev import Dev, dev_down, dev_status, dev_up
from hsmvault.server.running import running_pid, serving, start_region, stop_region

pytestmark = pytest.mark.softhsm


def nobody(_dev: Dev, name: str) -> None:
    message = f"there is nothing to add: {name}"
    raise AssertionError(message)


def test_a_development_vault_comes_up_once_and_goes_down(tmp_path: Path) -> None:
    steps: list[str] = []

    try:
        dev = dev_up(
            tmp_path,
            ("north",),
            add_region=nobody,
            progress=lambda what, _n, _of: steps.append(what),
        )
        pid = dev.region("north").pid
        again = dev_up(tmp_path, ("north",), add_region=nobody)

        assert steps == ["making region north and its vault", "serving region north"]
        assert serving(tmp_path / "north")
        assert pid is not None
        assert again.region("north").pid == pid
        assert dev.admin.key.exists()
        assert (tmp_path / "officer" / "north" / "p0.so-pin").exists()
        shown = dev_status(tmp_path)
        assert [(r.name, r.pid) for r in shown] == [("north", pid)]
        assert {p["name"]: p["state"] for p in shown[0].processes} == {
            "p0": "serving",
            "p1": "serving",
            "p2": "serving",
            "manager": "serving",
        }
    finally:
        dev_down(tmp_path)

    assert running_pid(tmp_path / "north") is None
    assert [r.pid for r in dev_status(tmp_path)] == [None]
    assert not stop_region(tmp_path / "north")


def test_a_region_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"region\.toml is missing"):
        start_region(tmp_path)
