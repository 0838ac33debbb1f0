"""What generic clients are told to repeat is what our own client repeats."""

import json
from pathlib import Path
from typing import Any

from hsmvault.api.permissions import RULES
from hsmvault.client import methods, service_config
from hsmvault.client.methods import Method, Repeat
from tests.support.prompt import hsmvault


def _repeated(config: dict[str, Any]) -> set[str]:
    return {
        f"/{name['service']}/{name['method']}"
        for of in config["methodConfig"]
        for name in of["name"]
        if "retryPolicy" in of
    }


def _named(config: dict[str, Any]) -> list[str]:
    return [
        f"/{name['service']}/{name['method']}"
        for of in config["methodConfig"]
        for name in of["name"]
    ]


def _paths(*repeats: Repeat) -> set[str]:
    known = [one for one in vars(methods).values() if isinstance(one, Method)]
    return {one.path for one in known if one.repeat in repeats}


def test_a_generic_client_repeats_what_ours_repeats_without_a_request_id() -> None:
    config = service_config.service_config()

    assert _repeated(config) == _paths(Repeat.ALWAYS)
    assert sorted(_named(config)) == sorted(_paths(*Repeat))


def test_one_that_sends_request_ids_repeats_writes_too() -> None:
    config = service_config.service_config(writes=True)

    assert _repeated(config) == _paths(Repeat.ALWAYS, Repeat.WITH_ID)
    assert sorted(_named(config)) == sorted(_paths(*Repeat))


def test_what_changes_something_is_repeated_only_with_a_request_id() -> None:
    """By what the vault, not the client, knows of its RPCs."""
    changing = {p for p, rule in RULES.items() if rule.write.name != "NONE"}

    assert not _repeated(service_config.service_config()) & changing


def test_who_shows_tokens_makes_no_health_checks() -> None:
    """Those that gRPC makes by itself carry no token: they would be refused."""
    config = hsmvault("client-config", "--tokens").json

    assert "healthCheckConfig" not in config
    assert config == {
        name: value
        for name, value in service_config.service_config().items()
        if name != "healthCheckConfig"
    }


def test_only_unavailability_is_retried() -> None:
    """Nothing is gained by repeating what was refused, and a deadline is over."""
    for of in service_config.service_config(writes=True)["methodConfig"]:
        if "retryPolicy" in of:
            assert of["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


def test_the_file_that_is_shipped_is_what_the_command_prints() -> None:
    beside = Path(service_config.__file__).with_suffix(".json")

    assert beside.read_text() == service_config.shipped()
    assert hsmvault("client-config").json == json.loads(beside.read_text())
    assert hsmvault("client-config", "--writes").json == (
        service_config.service_config(writes=True)
    )
