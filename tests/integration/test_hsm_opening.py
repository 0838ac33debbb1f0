"""Opening a partition: what is refused, how it is said, and what is tried once."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pkcs11.constants import Attribute, TokenFlag

from hsmvault.hsm import installed, labels, module
from hsmvault.hsm.attributes import mapper
from hsmvault.hsm.core import PartitionConfig
from hsmvault.hsm.module import TokenAddress
from hsmvault.hsm.partition import Partition
from hsmvault.hsm.templates import INTEGRITY_KEY
from hsmvault.model.errors import (
    ConfigurationError,
    ForeignToken,
    PinRejected,
    TemplateViolated,
)
from tests.support.apart import apart
from tests.support.softhsm import (
    MODULE,
    USER_PIN,
    RegionTokens,
    Token,
    configure,
    make_token,
)
from tests.support.stranger import Stranger

pytestmark = pytest.mark.softhsm


def address(token: Token, **changed: str) -> TokenAddress:
    return TokenAddress(
        **{
            "module": MODULE,
            "label": token.label,
            "serial": "",
            "user_pin": token.user_pin,
            **changed,
        }
    )


def open_partition(where: TokenAddress, region: str = "north") -> str:
    """Open p0; return the token's serial."""
    partition = Partition.open(PartitionConfig("p0", region, where))
    return bytes(partition._core.token.serial).decode()


def test_a_partition_opens_the_token_it_was_set_up_with(north: RegionTokens) -> None:
    token = north.tokens["p0"]
    serial = apart(token.environment, open_partition)(address(token))

    again = apart(token.environment, open_partition)(address(token, serial=serial))

    assert again == serial


def open_once_it_is_back(where: TokenAddress, hidden: Path, back: Path) -> str:
    """Open p0, whose token the module does not see when it is loaded."""
    threading.Timer(0.15, hidden.rename, [back]).start()
    return open_partition(where)


def test_a_token_that_was_being_rewritten_when_the_module_started_is_found(
    north: RegionTokens,
) -> None:
    token = north.tokens["p0"]
    (told,) = (token.directory / "tokens").glob("*/token.object")
    hidden = told.with_suffix(".away")
    told.rename(hidden)

    serial = apart(token.environment, open_once_it_is_back)(
        address(token), hidden, told
    )

    assert serial


def test_a_missing_module_is_named_with_the_way_out(north: RegionTokens) -> None:
    token = north.tokens["p0"]

    with pytest.raises(ConfigurationError, match=r"/no/such\.so .*region\.toml"):
        apart(token.environment, open_partition)(address(token, module="/no/such.so"))


def test_a_file_that_is_no_module_is_refused(
    north: RegionTokens, tmp_path: Path
) -> None:
    token = north.tokens["p0"]
    (tmp_path / "text.so").write_text("not a library")

    for wrong in (str(tmp_path / "text.so"), "libc.so.6"):
        with pytest.raises(ConfigurationError, match="PKCS#11 module"):
            apart(token.environment, open_partition)(address(token, module=wrong))


def test_a_token_of_another_label_or_serial_is_foreign(north: RegionTokens) -> None:
    token = north.tokens["p0"]

    with pytest.raises(ForeignToken, match=f"'hsmvault-west-p0'.*{token.label}"):
        apart(token.environment, open_partition)(
            address(token, label="hsmvault-west-p0")
        )
    with pytest.raises(ForeignToken, match="0123456789abcdef"):
        apart(token.environment, open_partition)(
            address(token, serial="0123456789abcdef")
        )


def test_a_token_directory_without_tokens_says_what_is_missing(tmp_path: Path) -> None:
    configure(tmp_path)
    environment = {"SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf")}

    with pytest.raises(ForeignToken, match="found: none"):
        apart(environment, open_partition)(TokenAddress(MODULE, "hsmvault-north-p0"))


def test_a_token_without_its_keys_asks_for_the_ceremony(tmp_path: Path) -> None:
    token = make_token(tmp_path, "hsmvault-north-p0")

    with pytest.raises(
        ConfigurationError, match=r"hsmvault:region-key:north.*ceremony"
    ):
        apart(token.environment, open_partition)(address(token))


def test_a_token_of_another_region_does_not_serve(north: RegionTokens) -> None:
    token = north.tokens["p0"]

    with pytest.raises(ConfigurationError, match="hsmvault:region-key:west"):
        apart(token.environment, open_partition)(address(token), region="west")


def pin_was_wrong(where: TokenAddress) -> bool:
    """Whether the token remembers a failed login; asked without logging in."""
    return bool(module.find(where).flags & TokenFlag.USER_PIN_COUNT_LOW)


def test_a_wrong_pin_is_refused_and_not_shown(north: RegionTokens) -> None:
    token = north.tokens["p0"]
    assert not apart(token.environment, pin_was_wrong)(address(token))

    with pytest.raises(PinRejected, match="tried once") as caught:
        apart(token.environment, open_partition)(address(token, user_pin="wrong-pin"))

    assert "wrong-pin" not in str(caught.value)
    assert apart(token.environment, pin_was_wrong)(address(token))
    apart(token.environment, open_partition)(address(token))
    assert not apart(token.environment, pin_was_wrong)(address(token))


def count_logins(where: TokenAddress) -> int:
    """How often a session with a PIN was asked of the token, for one opening."""
    asked = 0
    known = module._log_in

    def counting(token: object, pin: str) -> object:
        nonlocal asked
        asked += 1
        return known(token, pin)  # type: ignore[arg-type]

    module._log_in = counting  # type: ignore[assignment]
    with pytest.raises(PinRejected):
        open_partition(where)
    return asked


def test_a_wrong_pin_is_tried_exactly_once(north: RegionTokens) -> None:
    token = north.tokens["p0"]

    tries = apart(token.environment, count_logins)(address(token, user_pin="wrong-pin"))

    assert tries == 1


def plant(where: TokenAddress, changed: dict[Attribute, object]) -> None:
    """With the user PIN, plant a look-alike of the integrity key."""
    _, session = module.log_in(where)
    label = labels.integrity_key("north")
    session.create_object(
        {
            **{a: v for a, v in INTEGRITY_KEY.items() if a is not Attribute.VALUE_LEN},
            Attribute.VALUE: bytes(32),
            Attribute.LABEL: label,
            Attribute.ID: labels.object_id(label),
            **changed,
        }
    )


def test_a_look_alike_with_other_attributes_is_not_taken(north: RegionTokens) -> None:
    token = north.tokens["p0"]

    apart(token.environment, plant)(address(token), {Attribute.EXTRACTABLE: False})

    apart(token.environment, open_partition)(address(token))


def test_two_keys_that_look_alike_in_all_stop_the_partition(
    north: RegionTokens,
) -> None:
    """Which of them a ceremony installed cannot be told any more."""
    token = north.tokens["p0"]

    apart(token.environment, plant)(address(token), {})

    with pytest.raises(TemplateViolated, match="2 keys"):
        apart(token.environment, open_partition)(address(token))


@pytest.mark.parametrize("label", [labels.region_key, labels.integrity_key])
def test_a_copy_of_an_installed_key_does_not_end_service(
    north: RegionTokens, label: Callable[[str], str]
) -> None:
    """Whoever has the user PIN can copy it, and nobody can destroy the copy."""
    token = north.tokens["p0"]
    with Stranger(MODULE, token.environment, token.label) as stranger:
        assert stranger.login(USER_PIN).ok
        (key,) = stranger.find(("LABEL", label("north").encode()))
        assert stranger.copy(key, []).ok
        assert len(stranger.find(("LABEL", label("north").encode()))) == 2

    apart(token.environment, open_partition)(address(token))


def test_a_key_that_is_not_as_its_table_says_is_named(tmp_path: Path) -> None:
    token = make_token(tmp_path, "hsmvault-north-p0")

    with pytest.raises(TemplateViolated, match=r"hsmvault:integrity:north.*MODIFIABLE"):
        apart(token.environment, plant_and_find)(
            address(token), {Attribute.MODIFIABLE: True}
        )


def plant_and_find(where: TokenAddress, changed: dict[Attribute, object]) -> None:
    """Plant a look-alike where no real one is, and look for the real one."""
    plant(where, changed)
    token, _ = module.log_in(where)
    session = token.open(rw=True, attribute_mapper=mapper())
    cryptoki = module.load(MODULE).cryptoki
    installed.find(session, cryptoki, labels.integrity_key("north"), INTEGRITY_KEY)


def open_at(where: TokenAddress, moment: float) -> int:
    """Open at this moment, as exactly as can be."""
    load_ahead = module.load(where.module)
    assert load_ahead is module.load(where.module)
    time.sleep(max(0.0, moment - time.time()))
    for _ in range(5):
        open_partition(where)
    return 5


def test_processes_that_open_one_token_at_once_all_get_in(north: RegionTokens) -> None:
    token = north.tokens["p0"]
    moment = time.time() + 2

    with ThreadPoolExecutor(6) as threads:
        opened = threads.map(
            lambda _: apart(token.environment, open_at)(address(token), moment),
            range(6),
        )
        assert sum(opened) == 30
