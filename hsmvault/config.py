"""The settings of one region: region.toml, read strictly.

Unknown settings are errors, because a misspelled one would silently be a default.
Relative paths are relative to the region's directory.
"""

import dataclasses
import ipaddress
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from hsmvault.model.errors import ConfigurationError, InvalidRequest
from hsmvault.model.names import RegionName
from hsmvault.regions.issuers import Issuer
from hsmvault.regions.issuers import problems as issuer_problems
from hsmvault.regions.layout import PARTITIONS, Layout
from hsmvault.regions.listening import address

PRIMARY: Final = "primary"
EXTENDED: Final = "extended"

DIRECTORY: Final = "{directory}"
"""Stands for the region's directory in the values of `environment`."""

_PORT_MAX: Final = 65535


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """Which region this is. `kind`: what it was made as; who reigns is in the log."""

    name: str
    kind: str
    zone: str = "default"


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the region listens."""

    port: int
    private_port: int
    partition_ports: tuple[int, ...]
    host: str = "127.0.0.1"
    advertise: str = ""
    """What others connect to; "" is `host`."""
    token_ports: tuple[int, ...] = ()
    """For callers with tokens, who show no certificate: one that the partitions share,
    then one of each. Nobody listens there unless there are issuers."""


@dataclass(frozen=True, slots=True)
class PartitionSettings:
    """One HSM partition: which token it is, and how to log in."""

    module: Path
    token_label: str
    token_serial: str
    user_pin_file: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    sessions: int = 4
    open_keys: int = 1000
    profile: str = "hardened"


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the log and the state are kept."""

    url: str = "sqlite:///store/vault.db"


@dataclass(frozen=True, slots=True)
class OfficerSettings:
    """Where a development set-up keeps SO PINs; None: they are typed."""

    directory: Path | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may ask for at once."""

    message_bytes: int = 256 * 1024
    metadata_bytes: int = 16 * 1024
    concurrent_calls: int = 1000
    token_connections: int = 128
    serving_threads: int = 4
    waiting_threads: int = 16
    waiting_calls: int = 256
    watching_threads: int = 16


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What is shown of the region to those who watch over it."""

    metrics: str = ""
    """host:port of the listener for Prometheus; "": there is none."""
    traces: Path | None = None
    """The directory for spans; None: nothing is traced."""
    trace_one_in: int = 100

    def listener(self) -> tuple[str, int] | None:
        """Address and port of the listener; ValueError when it names none."""
        if not self.metrics:
            return None
        host, _, port = self.metrics.rpartition(":")
        at = str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
        if not 0 < int(port) <= _PORT_MAX:
            raise ValueError(port)
        return at, int(port)


@dataclass(frozen=True, slots=True)
class Audit:
    """The audit trails of the region's processes."""

    head_seconds: int = 60
    """How often what was written is signed, and the signature logged."""
    segment_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Join:
    """The vault that an extended region was made for."""

    card: Path | None = None


@dataclass(frozen=True, slots=True)
class RegionConfig:
    """Everything in region.toml."""

    layout: Layout
    region: RegionSettings
    listen: Listen
    partitions: Mapping[str, PartitionSettings]
    store: StoreSettings = StoreSettings()
    officer: OfficerSettings = OfficerSettings()
    limits: Limits = Limits()
    telemetry: Telemetry = Telemetry()
    audit: Audit = Audit()
    join: Join = Join()
    issuers: tuple[Issuer, ...] = ()

    @property
    def advertised(self) -> str:
        """The host that others connect to."""
        return self.listen.advertise or self.listen.host

    @property
    def endpoint(self) -> str:
        """host:port of the public API."""
        return address(self.advertised, self.listen.port)

    @property
    def private_endpoint(self) -> str:
        """host:port of the private API."""
        return address(self.advertised, self.listen.private_port)

    @property
    def partition_endpoints(self) -> tuple[str, ...]:
        """host:port of each partition's own listener, in order."""
        ports = self.listen.partition_ports
        return tuple(address(self.advertised, port) for port in ports)

    def token_ports(self, partition: str) -> tuple[int, int] | None:
        """The shared port for tokens, and a partition's own; None: none are taken."""
        if not self.issuers:
            return None
        shared, *own = self.listen.token_ports
        return shared, own[list(self.partitions).index(partition)]

    def environment(self, partition: str) -> dict[str, str]:
        """What a partition's process finds in its environment, for its module."""
        directory = str(self.layout.directory)
        given = self.partitions[partition].environment
        return {k: v.replace(DIRECTORY, directory) for k, v in given.items()}

    def own_port(self, partition: str) -> int:
        """The port of one partition's own listener."""
        return self.listen.partition_ports[list(self.partitions).index(partition)]


_Settings = TypeVar("_Settings")


def load(directory: Path) -> RegionConfig:
    """Read a region's settings, or raise ConfigurationError saying what to change."""
    layout = Layout(directory.absolute())
    require_whole(layout)
    try:
        raw = tomllib.loads(layout.config.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {layout.config}: {error.strerror}; it must be readable by "
            "the user who serves the region"
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"{layout.config} is not TOML: {error}; correct that line"
        ) from error
    return _checked(_read(raw, _Reader(layout)), layout)


def require_whole(layout: Layout) -> None:
    """Raise ConfigurationError unless `hsmvault region init` finished here."""
    directory = layout.directory
    if layout.purged.exists():
        raise ConfigurationError(
            f"the region in {directory} was purged: its tokens and its store are "
            "gone. Remove the directory; hsmvault region init makes a new region"
        )
    if layout.incomplete.exists():
        raise ConfigurationError(
            f"{directory} is half-initialised: hsmvault region init did not finish. "
            "It holds no key yet: remove it, and what it made in the officer's "
            "directory, and run hsmvault region init again"
        )
    if not layout.config.exists():
        raise ConfigurationError(
            f"{directory} is no region's directory: {layout.config.name} is missing. "
            "Make one by hsmvault region init, or name another directory"
        )


class _Reader:
    """Turns a table of TOML into settings, by their dataclass."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def settings(
        self, kind: type[_Settings], table: object, *, where: str
    ) -> _Settings:
        """Read one table, or raise ConfigurationError."""
        if not isinstance(table, dict):
            raise self.wrong(where, "must be a table")
        hints = typing.get_type_hints(kind)
        known = {f.name: f for f in dataclasses.fields(typing.cast("Any", kind))}
        for key in table:
            if key not in known:
                raise self.wrong(
                    f"{where}.{key}",
                    f"is unknown; [{where}] knows {', '.join(known)}. "
                    "Correct or remove it",
                )
        values = {}
        for name, known_field in known.items():
            if name in table:
                values[name] = self.value(table[name], hints[name], f"{where}.{name}")
            elif (
                known_field.default is dataclasses.MISSING
                and known_field.default_factory is dataclasses.MISSING
            ):
                raise self.wrong(f"{where}.{name}", "is missing; add it")
        return kind(**values)

    def value(self, value: object, wanted: Any, where: str) -> Any:
        """Check one value against the type of its field."""
        if wanted is int:
            # True is an int to Python, but nobody means it as one.
            if isinstance(value, bool) or not isinstance(value, int):
                raise self.wrong(where, f"must be a whole number, not {value!r}")
            if value < 1:
                raise self.wrong(where, f"must be 1 or more, not {value}")
            return value
        if wanted is str:
            return self._text(value, where)
        if wanted is Path:
            return self._path(value, where)
        origin = typing.get_origin(wanted)
        if origin is types.UnionType:
            return self._path(value, where) if value != "" else None
        if origin is tuple:
            kind = typing.get_args(wanted)[0]
            if not isinstance(value, list):
                listed = "whole numbers" if kind is int else "texts"
                raise self.wrong(where, f"must be a list of {listed}")
            return tuple(self.value(one, kind, where) for one in value)
        if not isinstance(value, dict):
            raise self.wrong(where, "must be a table of texts")
        return {k: self._text(v, f"{where}.{k}") for k, v in value.items()}

    def _text(self, value: object, where: str) -> str:
        if not isinstance(value, str):
            raise self.wrong(where, f"must be a text in quotes, not {value!r}")
        return value

    def _path(self, value: object, where: str) -> Path:
        text = self._text(value, where)
        if not text:
            raise self.wrong(where, "must name a file, not be empty")
        # Links stay links: the module's name is the distribution's, not the file's.
        return Path(os.path.normpath(self._layout.directory / text))

    def wrong(self, where: str, what: str) -> ConfigurationError:
        """Say what is wrong with which setting in which file."""
        return ConfigurationError(f"{self._layout.config}: {where} {what}")


_SECTIONS: Final[Mapping[str, type]] = types.MappingProxyType(
    {
        "region": RegionSettings,
        "listen": Listen,
        "store": StoreSettings,
        "officer": OfficerSettings,
        "limits": Limits,
        "telemetry": Telemetry,
        "audit": Audit,
        "join": Join,
    }
)


def _read(raw: dict[str, Any], reader: _Reader) -> dict[str, Any]:
    known = [*_SECTIONS, "partitions", "issuers"]
    for section in raw:
        if section not in known:
            raise reader.wrong(
                f"[{section}]", f"is unknown; known are {', '.join(known)}"
            )
    sections: dict[str, Any] = {
        name: reader.settings(kind, raw.get(name, {}), where=name)
        for name, kind in _SECTIONS.items()
    }
    partitions = raw.get("partitions")
    if not isinstance(partitions, dict) or list(partitions) != list(PARTITIONS):
        raise reader.wrong(
            "[partitions]", f"must hold exactly {', '.join(PARTITIONS)}, in this order"
        )
    sections["partitions"] = {
        name: reader.settings(PartitionSettings, table, where=f"partitions.{name}")
        for name, table in partitions.items()
    }
    issuers = raw.get("issuers", [])
    if not isinstance(issuers, list):
        raise reader.wrong("[[issuers]]", "must be tables, each in double brackets")
    sections["issuers"] = tuple(
        reader.settings(Issuer, table, where="issuers") for table in issuers
    )
    return sections


def _checked(sections: dict[str, Any], layout: Layout) -> RegionConfig:
    config = RegionConfig(layout=layout, **sections)
    reader = _Reader(layout)
    try:
        RegionName.of_id(config.region.name)
    except InvalidRequest as error:
        raise reader.wrong("region.name", f"is wrong: {error}") from error
    if config.region.kind not in {PRIMARY, EXTENDED}:
        raise reader.wrong("region.kind", f'must be "{PRIMARY}" or "{EXTENDED}"')
    listen = config.listen
    ports = [listen.port, listen.private_port, *listen.partition_ports]
    ports += listen.token_ports
    if len(listen.partition_ports) != len(PARTITIONS):
        raise reader.wrong(
            "listen.partition_ports", f"must list {len(PARTITIONS)} ports"
        )
    if len(listen.token_ports) not in {0, 1 + len(PARTITIONS)}:
        raise reader.wrong(
            "listen.token_ports", f"must list {1 + len(PARTITIONS)} ports, or none"
        )
    for problem in issuer_problems(config.issuers):
        raise reader.wrong("[[issuers]]", problem)
    if config.issuers and not listen.token_ports:
        raise reader.wrong(
            "listen.token_ports",
            f"is missing: callers with tokens need {1 + len(PARTITIONS)} ports",
        )
    if max(ports) > _PORT_MAX or len(set(ports)) != len(ports):
        raise reader.wrong(
            "[listen]", f"ports must differ, and be {_PORT_MAX} at most: {ports}"
        )
    try:
        config.telemetry.listener()
    except ValueError as error:
        raise reader.wrong(
            "telemetry.metrics",
            'must be an address and a port, as in "127.0.0.1:9464", or ""',
        ) from error
    if config.region.kind == EXTENDED and config.join.card is None:
        raise reader.wrong(
            "join.card", "is empty; an extended region needs the primary's card.json"
        )
    return config
