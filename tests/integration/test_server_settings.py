"""region.toml: what is written reads back, and what is wrong is named."""

from pathlib import Path

import pytest

from hsmvault import config
from hsmvault.model.errors import ConfigurationError
from hsmvault.regions.birth import Born, Ports, RegionPlan
from hsmvault.regions.layout import PARTITIONS
from hsmvault.server.settings import region_toml

PORTS = Ports(7400, 7443, (7401, 7402, 7403))
BORN = {
    name: Born(f"hsmvault-north-{name}", f"serial-{name}", b"") for name in PARTITIONS
}


def write(directory: Path, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "region.toml").write_text(text)


@pytest.fixture
def text(tmp_path: Path) -> str:
    return region_toml(RegionPlan(tmp_path / "north", "north", ports=PORTS), BORN)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    plan = RegionPlan(
        tmp_path / "south",
        "south",
        "extended",
        zone="eu",
        host="::",
        advertise="south.example.org",
        ports=PORTS,
        officer_directory=tmp_path / "officer" / "south",
        join=tmp_path / "card.json",
    )
    write(plan.directory, region_toml(plan, BORN))

    settings = config.load(plan.directory)

    assert settings.region == config.RegionSettings("south", "extended", "eu")
    assert settings.endpoint == "south.example.org:7400"
    assert settings.private_endpoint == "south.example.org:7443"
    assert settings.partition_endpoints == tuple(
        f"south.example.org:{port}" for port in PORTS.partitions
    )
    assert settings.own_port("p2") == 7403
    assert settings.officer.directory == tmp_path / "officer" / "south"
    assert settings.join.card == plan.directory / "primary.json"
    assert settings.partitions["p1"].user_pin_file == (
        plan.directory / "secrets" / "p1.pin"
    )
    assert settings.environment("p1") == {
        "SOFTHSM2_CONF": str(plan.directory / "tokens" / "p1" / "softhsm2.conf")
    }
    assert settings.limits == config.Limits()


def test_paths_are_relative_to_the_settings(tmp_path: Path) -> None:
    plan = RegionPlan(
        tmp_path / "old" / "north",
        "north",
        ports=PORTS,
        officer_directory=tmp_path / "old" / "officer" / "north",
    )
    write_text = region_toml(plan, BORN)
    moved = tmp_path / "new" / "north"
    moved.mkdir(parents=True)
    write(moved, write_text)

    settings = config.load(moved)

    assert settings.officer.directory == tmp_path / "new" / "officer" / "north"
    assert settings.partitions["p0"].user_pin_file == moved / "secrets" / "p0.pin"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[limits]", "[limit]", r"region\.toml: \[limit\] is unknown; known are"),
        ("zone =", "zones =", r"region\.zones is unknown; \[region\] knows name"),
        ("sessions = 4", "session = 4", r"partitions\.p0\.session is unknown"),
        ("sessions = 4", 'sessions = "4"', "sessions must be a whole number"),
        ("sessions = 4", "sessions = true", "must be a whole number, not True"),
        ("sessions = 4", "sessions = 0", "sessions must be 1 or more"),
        ("port = 7400", "port = 74000", "65535 at most"),
        ("port = 7400", "port = 7443", "ports must differ"),
        ("port = 7400\n", "", r"listen\.port is missing; add it"),
        ("[7401, 7402, 7403]", "[7401, 7402]", "partition_ports must list 3 ports"),
        ("[7401, 7402, 7403]", "7401", "must be a list of whole numbers"),
        ('name = "north"', 'name = "North"', r"region\.name is wrong: malformed"),
        ('kind = "primary"', 'kind = "main"', 'must be "primary" or "extended"'),
        ('kind = "primary"', 'kind = "extended"', r"join\.card is empty"),
        ("[partitions.p2]", "[partitions.p3]", "must hold exactly p0, p1, p2"),
        ('url = "', "url = 7 # ", r"store\.url must be a text in quotes, not 7"),
        ("[region]", "[region", "is not TOML"),
        ('metrics = ""', 'metrics = "9464"', "must be an address and a port"),
        ('metrics = ""', 'metrics = "localhost:9464"', "must be an address and a"),
        ('metrics = ""', 'metrics = "127.0.0.1:0"', "must be an address and a port"),
        ("trace_one_in = 100", "trace_one_in = 0", "must be 1 or more"),
        ('user_pin_file = "secrets/p0.pin"', 'user_pin_file = ""', "must name a file"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(
    tmp_path: Path, text: str, old: str, new: str, says: str
) -> None:
    assert old in text
    write(tmp_path / "north", text.replace(old, new, 1))

    with pytest.raises(ConfigurationError, match=says) as refused:
        config.load(tmp_path / "north")

    assert str(tmp_path / "north" / "region.toml") in str(refused.value)


def test_no_setting_is_left_out_of_what_is_written(text: str) -> None:
    """Somebody who reads region.toml sees everything that can be set."""
    for section in (
        config.RegionSettings,
        config.Listen,
        config.PartitionSettings,
        config.StoreSettings,
        config.OfficerSettings,
        config.Limits,
        config.Telemetry,
        config.Join,
    ):
        for name in section.__dataclass_fields__:
            assert f"\n{name} = " in text, f"{section.__name__}.{name}"


ISSUER = """
[[issuers]]
issuer = "https://issuer.example/realm"
audience = "hsmvault"
ca_file = "tls/issuer-ca.pem"
"""
TOKENS = Ports(7400, 7443, (7401, 7402, 7403), (7420, 7421, 7422, 7423))


@pytest.fixture
def believing(tmp_path: Path) -> str:
    plan = RegionPlan(tmp_path / "north", "north", ports=TOKENS)
    return region_toml(plan, BORN) + ISSUER


def test_issuers_are_read_with_safe_defaults(tmp_path: Path, believing: str) -> None:
    write(tmp_path / "north", believing)

    settings = config.load(tmp_path / "north")

    (issuer,) = settings.issuers
    assert issuer.ca_file == tmp_path / "north" / "tls" / "issuer-ca.pem"
    assert issuer.algorithms == ("RS256", "ES256")
    assert (issuer.leeway_seconds, issuer.stale_seconds) == (60, 3600)
    assert settings.token_ports("p1") == (7420, 7422)


def test_without_issuers_nobody_listens_for_tokens(tmp_path: Path) -> None:
    plan = RegionPlan(tmp_path / "north", "north", ports=TOKENS)
    write(plan.directory, region_toml(plan, BORN))

    assert config.load(plan.directory).token_ports("p0") is None


@pytest.mark.parametrize(
    ("was", "is_", "why"),
    [
        ("https://issuer", "http://issuer", "https:// URL"),
        ("issuer.example/realm", "issuer.example/realm?x=1", "https:// URL"),
        ("issuer.example/realm", "issuer.example/realm#x", "https:// URL"),
        ("issuer.example", "Issuer.example", "in lower case"),
        ('audience = "hsmvault"', 'audience = ""', "must name this vault"),
        ('audience = "hsmvault"', "", "audience is missing"),
        ("[[issuers]]", '[[issuers]]\nalgorithms = ["HS256"]', "must be among"),
        ("[[issuers]]", '[[issuers]]\nalgorithms = ["none"]', "must be among"),
        ("[[issuers]]", "[[issuers]]\nalgorithms = []", "must be among"),
        ("[[issuers]]", '[[issuers]]\nalgorithms = "ES256"', "list of texts"),
        ("[[issuers]]", '[[issuers]]\njwks_uri = "http://x/y"', "https:// URL"),
        ("[[issuers]]", "[[issuers]]\nleeway_seconds = 301", "300 at most"),
        ("[[issuers]]", "[[issuers]]\nstale_seconds = 5", "not be less"),
        ("[[issuers]]", '[[issuers]]\nsecret = "x"', "issuers.secret is unknown"),
        ("[[issuers]]", "[issuers]", "in double brackets"),
        ("[[issuers]]", ISSUER + "[[issuers]]", "must differ"),
        ("token_ports = [7420, ", "token_ports = [", "must list 4 ports"),
        ("token_ports = [7420, ", "token_ports = [7401, ", "must differ"),
        ("token_ports = [7420, 7421, 7422, 7423]", "", "need 4 ports"),
    ],
)
def test_issuers_that_would_let_the_wrong_in_are_refused(
    tmp_path: Path, believing: str, was: str, is_: str, why: str
) -> None:
    head, issuers = believing[: -len(ISSUER)], ISSUER
    if was in issuers:
        issuers = issuers.replace(was, is_)
    else:
        head = head.replace(was, is_)
    write(tmp_path / "north", head + issuers)

    with pytest.raises(ConfigurationError, match=why):
        config.load(tmp_path / "north")
