"""The officer's process keeps its PINs to itself, tries each once, and ends with us."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hsmvault.hsm.officer import OfficerProcess
from hsmvault.model.errors import (
    ConfigurationError,
    ForeignToken,
    InvalidRequest,
    PartitionLost,
    PinRejected,
)
from tests.support.softhsm import (
    MODULE,
    SO_PIN,
    USER_PIN,
    Officers,
    RegionTokens,
    empty_token,
    make_token,
)

pytestmark = pytest.mark.softhsm

LABEL = "hsmvault-north-p0"
BIRTH = {"task": "birth_region", "region": "north"}


def test_a_wrong_officer_pin_is_tried_once(tmp_path: Path) -> None:
    token = make_token(tmp_path, LABEL)

    with token.officer(so_pin="wrong-so-pin") as officer:
        with pytest.raises(PinRejected, match="CKR_PIN_INCORRECT"):
            officer.ask(BIRTH)
        with pytest.raises(PinRejected, match="refused before"):
            officer.ask(BIRTH)
        with pytest.raises(PinRejected, match="refused before"):
            officer.ask({"task": "wipe", "label": LABEL})

    with token.officer() as officer:
        assert officer.ask(BIRTH)["made"]


def test_a_wrong_user_pin_is_tried_once(tmp_path: Path) -> None:
    token = make_token(tmp_path, LABEL)

    with token.officer(user_pin="wrong-user-pin") as officer:
        with pytest.raises(PinRejected, match="user PIN"):
            officer.ask(BIRTH)
        with pytest.raises(PinRejected, match="refused before"):
            officer.ask(BIRTH)


def test_a_token_is_not_wiped_with_a_wrong_pin(north: RegionTokens) -> None:
    token = north.tokens["p0"]

    with (
        token.officer(so_pin="wrong-so-pin") as officer,
        pytest.raises(PinRejected),
    ):
        officer.ask({"task": "wipe", "label": token.label})

    with token.officer() as officer:
        assert officer.ask({"task": "inspect"})["keys"]


def test_no_error_repeats_a_pin(tmp_path: Path) -> None:
    token = make_token(tmp_path, LABEL)

    with token.officer(so_pin="0-secret-0", user_pin="1-secret-1") as officer:
        for task in (BIRTH, {"task": "inspect"}, {"task": "wipe", "label": LABEL}):
            with pytest.raises(PinRejected) as raised:
                officer.ask(task)
            assert "secret" not in f"{raised.value!r} {raised.value.__cause__!r}"
        assert "secret" not in repr(officer)


def test_pins_are_neither_in_arguments_nor_in_the_environment(
    tmp_path: Path,
) -> None:
    token = make_token(tmp_path, LABEL)

    with token.officer() as officer:
        assert officer._process is not None
        process = Path("/proc") / str(officer._process.pid)
        shown = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()

    assert SO_PIN.encode() not in shown
    assert USER_PIN.encode() not in shown


def test_pins_are_read_from_files(tmp_path: Path) -> None:
    token = make_token(tmp_path, LABEL)
    for name, pin in (("so", SO_PIN), ("user", USER_PIN)):
        (tmp_path / f"{name}.pin").write_text(f"{pin}\n")

    with OfficerProcess(
        module=MODULE,
        token_label=LABEL,
        so_pin_file=tmp_path / "so.pin",
        user_pin_file=tmp_path / "user.pin",
        environment=token.environment,
    ) as officer:
        assert officer.ask(BIRTH)["made"]


def test_a_pin_file_that_is_missing_is_named(tmp_path: Path) -> None:
    token = make_token(tmp_path, LABEL)

    officer = OfficerProcess(
        module=MODULE,
        token_label=LABEL,
        so_pin_file=tmp_path / "absent",
        user_pin=USER_PIN,
        environment=token.environment,
    )

    with pytest.raises(ConfigurationError, match="absent"), officer:
        pass


def test_a_module_that_is_missing_is_named(tmp_path: Path) -> None:
    officer = OfficerProcess(
        module=tmp_path / "absent.so", token_label=LABEL, so_pin=SO_PIN
    )

    with pytest.raises(ConfigurationError, match=r"absent\.so"), officer:
        pass


def test_a_library_that_is_no_module_is_named() -> None:
    officer = OfficerProcess(module="libc.so.6", token_label=LABEL, so_pin=SO_PIN)

    with pytest.raises(ConfigurationError, match="PKCS#11"), officer:
        pass


def test_a_token_with_another_label_is_never_touched(tmp_path: Path) -> None:
    theirs = make_token(tmp_path, "somebody-elses")

    with theirs.officer(token_label=LABEL) as officer:
        for task in (
            {"task": "init_token", "label": LABEL},
            {"task": "init_token", "label": LABEL, "reinitialise": True},
            {"task": "wipe", "label": LABEL},
            BIRTH,
        ):
            with pytest.raises(ForeignToken) as raised:
                officer.ask(task)
            assert "somebody-elses" in raised.value.facts["found"]
            assert LABEL in raised.value.facts["expected"]

    with theirs.officer() as officer:
        assert officer.ask({"task": "inspect"}) == {"keys": {}, "wrong": []}


def test_an_officer_does_not_wipe_by_another_label(north: RegionTokens) -> None:
    with Officers(north) as officers, pytest.raises(ForeignToken):
        officers["north", "p0"].ask({"task": "wipe", "label": "hsmvault-north-p1"})


def test_a_token_with_another_serial_is_foreign(tmp_path: Path) -> None:
    token = make_token(tmp_path, LABEL)

    with (
        token.officer(token_serial="0000000000000000") as officer,
        pytest.raises(ForeignToken, match="0000000000000000"),
    ):
        officer.ask(BIRTH)


def test_no_second_token_is_made_where_the_serial_is_known(tmp_path: Path) -> None:
    token = empty_token(tmp_path, LABEL)

    with (
        token.officer(token_serial="0123456789abcdef") as officer,
        pytest.raises(ForeignToken, match="found none"),
    ):
        officer.ask({"task": "init_token", "label": LABEL})

    with token.officer() as officer, pytest.raises(ForeignToken, match="found none"):
        officer.ask(BIRTH)


def test_a_token_that_got_no_user_pin_gets_it_later(tmp_path: Path) -> None:
    # The process ended between C_InitToken and C_InitPIN.
    token = make_token(tmp_path, LABEL)
    with token.officer() as officer:
        officer.ask({"task": "wipe", "label": LABEL})

    with token.officer() as officer:
        officer.ask({"task": "init_token", "label": LABEL})
        made = officer.ask(BIRTH)["made"]

    assert made


def test_reinitialising_empties_our_own_token(north: RegionTokens) -> None:
    token = north.tokens["p0"]

    with token.officer() as officer:
        task = {"task": "init_token", "label": token.label, "reinitialise": True}
        officer.ask(task)

        assert officer.ask({"task": "inspect"})["keys"] == {}


def test_bad_tasks_are_refused_and_the_process_goes_on(tmp_path: Path) -> None:
    token = empty_token(tmp_path, LABEL)

    with token.officer() as officer:
        for task in (
            {},
            {"task": "read_key"},
            {"task": "birth_region"},
            {"task": "offer", "context": 7},
            {"task": "install", "answer": {}, "peer_identity": "zz"},
            {"task": "birth_pair", "sender": "north", "receiver": "north"},
            {"task": "birth_pair", "sender": "North!", "receiver": "south"},
        ):
            with pytest.raises(InvalidRequest):
                officer.ask(task)
        assert officer.ask({"task": "init_token", "label": LABEL})["serial"]


def test_a_line_that_is_not_json_is_refused_without_quoting_it(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hsmvault.hsm.officer"],
        input=b'{"so_pin": "9-secret-9"\n',
        env=os.environ | empty_token(tmp_path, LABEL).environment,
        capture_output=True,
        check=True,
        timeout=60,
    )

    assert json.loads(done.stdout)["error"] == "InvalidRequest"
    assert b"secret" not in done.stdout + done.stderr


def test_the_process_ends_with_its_standard_input(tmp_path: Path) -> None:
    token = make_token(tmp_path, LABEL)
    officer = token.officer()
    with officer:
        process = officer._process
    assert process is not None

    assert process.returncode == 0


def test_a_process_that_was_killed_is_reported(tmp_path: Path) -> None:
    token = make_token(tmp_path, LABEL)

    with token.officer() as officer:
        assert officer._process is not None
        officer._process.kill()
        with pytest.raises(PartitionLost, match="ended"):
            officer.ask(BIRTH)
