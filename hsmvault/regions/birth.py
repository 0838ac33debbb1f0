"""How a region comes to be: its directory, its tokens, its keys, its identity.

Each step leaves a directory that either is whole or says that it is not: the settings
are written first, under the name of an unfinished region, and get their own name last.
"""

import re
import secrets
import string
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from hsmvault.hsm import labels
from hsmvault.hsm.officer import OfficerProcess
from hsmvault.model.errors import ConfigurationError, InvalidRequest, WrongState
from hsmvault.model.names import RegionName
from hsmvault.regions.card import Card, CardPartition
from hsmvault.regions.certificates import Authority, private_identity
from hsmvault.regions.files import (
    replace_file,
    sync_directory,
    write_public,
    write_secret,
)
from hsmvault.regions.layout import PARTITIONS, Layout
from hsmvault.regions.listening import Ports as Ports  # noqa: PLC0414 (part of a plan)
from hsmvault.regions.listening import address, free_ports

SOFTHSM: Final = Path("/usr/lib/softhsm/libsofthsm2.so")
"""Where Debian's package puts it."""

_PIN_SIGNS: Final = string.ascii_letters + string.digits
_PIN_LENGTH: Final = 24
"""142 bits, in signs that every token takes."""

_ZONE: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"

_SOFTHSM_CONF: Final = """\
# SoftHSM2 for one partition of a region. Its keys are as safe as this directory.
directories.tokendir = {tokens}
objectstore.backend = file
objectstore.umask = 0077
log.level = ERROR
slots.removable = false
"""

Progress = Callable[[str, int, int], None]
"""Told what happens next, and that it is step n of m."""


def quiet(_step: str, _number: int, _of: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class RegionPlan:
    """What a region is to be made as."""

    directory: Path
    name: str
    kind: str = "primary"
    zone: str = "default"
    host: str = "127.0.0.1"
    advertise: str = ""
    """What others connect to; "" is `host`."""
    hostnames: tuple[str, ...] = ()
    """Further names that the server's certificate is made out to."""
    ports: Ports | None = None
    """None: whichever are free."""
    officer_directory: Path | None = None
    """Where SO PINs are kept, for development; None: `so_pins` has them."""
    so_pins: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Typed SO PINs by partition. Not kept anywhere."""
    module: Path = SOFTHSM
    join: Path | None = None
    """The card of the primary that an extended region is to follow."""
    ca_directory: Path | None = None
    """The vault's CA, where it certifies this region's listener."""

    def require_ports(self) -> Ports:
        """Return the ports of a plan that is being carried out."""
        assert self.ports is not None
        return self.ports

    @property
    def hosts(self) -> tuple[str, ...]:
        """Everything that the server's certificate is made out to."""
        given = (self.host, self.advertise, *self.hostnames)
        everywhere = ("localhost", "127.0.0.1", "::1")
        known = (h for h in (*everywhere, *given) if h and h not in {"0.0.0.0", "::"})  # noqa: S104 (left out, not bound)
        return tuple(dict.fromkeys(known))


@dataclass(frozen=True, slots=True)
class Born:
    """One partition that has just been made."""

    token_label: str
    token_serial: str
    identity: bytes
    """SubjectPublicKeyInfo, DER."""


@dataclass(frozen=True, slots=True)
class RegionBorn:
    """A region that is whole, and where everything is."""

    layout: Layout
    card: Card
    officer_directory: Path | None


Settings = Callable[[RegionPlan, Mapping[str, Born]], str]
"""Writes the text of region.toml."""


def init_region(
    plan: RegionPlan, *, settings: Settings, progress: Progress = quiet
) -> RegionBorn:
    """Make a region, or raise with nothing changed, or leave what says it is not whole.

    1. Check everything that can be checked. 2. Make the directory, marked as
    unfinished. 3. Make the tokens and their identities. 4. Make the region's keys in
    the first, and carry them to the others by ceremony. 5. Certificates and card.
    6. Settings, by their own name: from here on the directory is a region's.
    """
    steps = 6 + len(PARTITIONS)
    progress("checking", 1, steps)
    joined = require_possible(plan)
    _require_pins(plan)
    plan = replace(plan, ports=plan.ports or free_ports(plan.host))
    layout = Layout(plan.directory.absolute())

    progress("making the directory", 2, steps)
    try:
        _make_directories(plan, layout)
    except OSError as error:
        raise ConfigurationError(
            f"cannot make {error.filename}: {error.strerror}; name a directory that "
            "this user can write"
        ) from error

    with ExitStack() as stack:
        officers = {}
        born = {}
        for number, name in enumerate(PARTITIONS, 3):
            progress(f"making token {name}", number, steps)
            officers[name] = stack.enter_context(_officer(plan, layout, name))
            born[name] = _birth(officers[name], plan, name)

        progress("making the region's keys", steps - 3, steps)
        _spread_keys(plan.name, officers, born)

    progress("making certificates", steps - 2, steps)
    _make_certificates(plan, layout, joined)
    card = _card(plan, layout, born, vault_id=joined.vault_id if joined else "")
    write_public(layout.card, card.to_json().encode())

    progress("writing the settings", steps - 1, steps)
    text = settings(plan, born)
    replace_file(layout.incomplete, text.encode(), 0o644)
    layout.incomplete.rename(layout.config)
    sync_directory(layout.directory)
    progress("done", steps, steps)
    return RegionBorn(layout, card, plan.officer_directory)


def require_possible(plan: RegionPlan) -> Card | None:
    """Refuse what could not be finished, its SO PINs apart.

    Returns the card of the primary to join; None: it is a primary.
    """
    RegionName.of_id(plan.name)
    if not re.fullmatch(_ZONE, plan.zone):
        raise InvalidRequest(
            "malformed zone {zone!r}; expected 1 to 63 lower-case letters, digits and "
            "dashes",
            zone=plan.zone[:100],
        )
    if plan.directory.exists() and any(plan.directory.iterdir()):
        raise WrongState(
            "{directory} is not empty; name a new directory, or, if an earlier attempt "
            "did not finish, remove it first",
            directory=plan.directory,
        )
    if not plan.module.exists():
        raise ConfigurationError(
            f"there is no PKCS#11 module {plan.module}; install SoftHSM2 (on Debian: "
            "apt-get install softhsm2), or name the module of your HSM"
        )
    joined = _joined(plan)
    if joined is not None and plan.ca_directory is not None:
        Authority.open(plan.ca_directory)
    return joined


def _require_pins(plan: RegionPlan) -> None:
    if plan.officer_directory is None:
        missing = [p for p in PARTITIONS if not plan.so_pins.get(p)]
        if missing:
            raise InvalidRequest(
                "no SO PIN for {missing}; type one for each partition, or name an "
                "officer's directory",
                missing=", ".join(missing),
            )
    elif any(_so_pin(plan.officer_directory, p).exists() for p in PARTITIONS):
        raise WrongState(
            "{directory} holds SO PINs already, of a region or of an attempt that did "
            "not finish; remove them with it, or name another directory",
            directory=plan.officer_directory,
        )


def _joined(plan: RegionPlan) -> Card | None:
    if plan.kind == "primary":
        if plan.join is not None:
            raise InvalidRequest("a primary joins nothing; make an extended region")
        return None
    if plan.kind != "extended":
        raise InvalidRequest(
            "kind {kind!r} is neither primary nor extended", kind=plan.kind[:50]
        )
    if plan.join is None:
        raise InvalidRequest(
            "an extended region needs the card of the primary: card.json of its "
            "directory"
        )
    try:
        card = Card.parse(plan.join.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the primary's card {plan.join}: {error.strerror}"
        ) from error
    if not card.vault_id:
        raise WrongState(
            "region {region} belongs to no vault yet; run hsmvault vault init there, "
            "and take its card.json again",
            region=card.region,
        )
    if card.region == plan.name or card.zone != plan.zone:
        raise InvalidRequest(
            "region {name} in zone {zone} cannot join region {primary} in zone "
            "{primary_zone}: names must differ, and zones be equal",
            name=plan.name,
            zone=plan.zone,
            primary=card.region,
            primary_zone=card.zone,
        )
    return card


def _make_directories(plan: RegionPlan, layout: Layout) -> None:
    layout.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    layout.directory.chmod(0o700)
    # First of all: until it is renamed, the directory is no region's.
    write_public(layout.incomplete, b"# hsmvault region init has not finished.\n")
    for path in (
        layout.secrets,
        layout.tls,
        layout.store_directory,
        layout.run,
        layout.logs,
        layout.directory / "tokens",
    ):
        path.mkdir(mode=0o700)
    if plan.officer_directory is not None:
        plan.officer_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        plan.officer_directory.chmod(0o700)
    for name in PARTITIONS:
        tokens = layout.token(name) / "tokens"
        layout.token(name).mkdir(mode=0o700)
        tokens.mkdir(mode=0o700)
        conf = _SOFTHSM_CONF.format(tokens=tokens)
        write_public(layout.softhsm_conf(name), conf.encode())
        write_secret(layout.pin(name), _fresh_pin())
        if plan.officer_directory is not None:
            write_secret(_so_pin(plan.officer_directory, name), _fresh_pin())


def _fresh_pin() -> bytes:
    return "".join(secrets.choice(_PIN_SIGNS) for _ in range(_PIN_LENGTH)).encode()


def _so_pin(officer_directory: Path, partition: str) -> Path:
    return officer_directory / f"{partition}.so-pin"


def _officer(plan: RegionPlan, layout: Layout, partition: str) -> OfficerProcess:
    directory = plan.officer_directory
    return OfficerProcess(
        module=plan.module,
        token_label=labels.token_label(plan.name, partition),
        so_pin=plan.so_pins[partition] if directory is None else None,
        so_pin_file=None if directory is None else _so_pin(directory, partition),
        user_pin_file=layout.pin(partition),
        environment={"SOFTHSM2_CONF": str(layout.softhsm_conf(partition))},
    )


def _birth(officer: OfficerProcess, plan: RegionPlan, partition: str) -> Born:
    label = labels.token_label(plan.name, partition)
    made = officer.ask({"task": "init_token", "label": label})
    identity = officer.ask(
        {"task": "birth_identity", "region": plan.name, "partition": partition}
    )
    return Born(label, str(made["serial"]), bytes.fromhex(identity["public_key"]))


def _spread_keys(
    region: str, officers: Mapping[str, OfficerProcess], born: Mapping[str, Born]
) -> None:
    """Make the region's keys in the first partition, and carry them to the others."""
    first, *others = PARTITIONS
    officers[first].ask({"task": "birth_region", "region": region})
    carried = {
        "region-key": labels.region_key(region),
        "integrity": labels.integrity_key(region),
    }
    for other in others:
        for purpose, label in carried.items():
            context = {
                "vault": "",
                "from_region": region,
                "from_partition": first,
                "to_region": region,
                "to_partition": other,
                "purpose": purpose,
                "label": label,
            }
            offer = officers[other].ask({"task": "offer", "context": context})
            answer = officers[first].ask(
                {
                    "task": "answer",
                    "offer": dict(offer),
                    "peer_identity": born[other].identity.hex(),
                }
            )
            officers[other].ask(
                {
                    "task": "install",
                    "answer": dict(answer),
                    "peer_identity": born[first].identity.hex(),
                }
            )


def _make_certificates(plan: RegionPlan, layout: Layout, joined: Card | None) -> None:
    private = private_identity(plan.name)
    write_secret(layout.private_key, private.key)
    write_public(layout.private_certificate, private.certificate)
    if joined is not None:
        write_public(layout.joined, joined.to_json().encode())
        write_public(layout.peers, joined.certificate.encode())
    if plan.ca_directory is not None and (plan.ca_directory / "ca.key").exists():
        certify_listener(layout, Authority.open(plan.ca_directory), hosts=plan.hosts)


def certify_listener(
    layout: Layout, authority: Authority, *, hosts: tuple[str, ...]
) -> None:
    """Give the region's public listener a certificate, and tell it whom to believe."""
    issued = authority.server(hosts[0], hosts=hosts)
    replace_file(layout.server_key, issued.key, 0o600)
    replace_file(layout.server_certificate, issued.certificate, 0o644)
    replace_file(layout.client_ca, authority.certificate, 0o644)


def _card(
    plan: RegionPlan, layout: Layout, born: Mapping[str, Born], *, vault_id: str
) -> Card:
    ports = plan.require_ports()
    host = plan.advertise or plan.host
    return Card(
        region=plan.name,
        vault_id=vault_id,
        zone=plan.zone,
        endpoint=address(host, ports.public),
        private_endpoint=address(host, ports.private),
        partitions=tuple(
            CardPartition(name, address(host, port), one.identity)
            for (name, one), port in zip(born.items(), ports.partitions, strict=True)
        ),
        certificate=layout.private_certificate.read_text(encoding="ascii"),
        token_endpoints=tuple(address(host, port) for port in ports.tokens),
    )
