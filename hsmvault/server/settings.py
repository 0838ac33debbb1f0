"""region.toml as `hsmvault region init` writes it, with every setting explained."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Final

from hsmvault.config import (
    DIRECTORY,
    Audit,
    Limits,
    PartitionSettings,
    StoreSettings,
    Telemetry,
)
from hsmvault.regions.birth import Born, RegionPlan
from hsmvault.regions.layout import Layout

_REGION: Final = Template("""\
# The settings of one region of a vault. Read at start; restart the region to apply
# changes. Paths are relative to this file. Unknown settings are errors.

[region]
# The region's name, in the log and in the labels of its keys. It cannot change.
name = $name
# What the region was made as: "primary" (its vault begins here) or "extended" (it joins
# one). Who is primary today is in the log.
kind = $kind
# Sovereignty zone: keys are replicated only between regions of the same zone.
zone = $zone

[listen]
# The address to listen on; "0.0.0.0" for all.
host = $host
# What other regions and callers connect to; "" takes `host`.
advertise = $advertise
# The region's public port, shared by its partition servers.
port = $port
# The ports of the partition servers' own listeners, in the order of [partitions]: the
# Python client spreads calls over them.
partition_ports = $partition_ports
# The private port: replication between regions, mTLS with pinned certificates.
private_port = $private_port
# For callers with tokens, who show no client certificate: a port that the partition
# servers share, then one of each. Nobody listens there unless [[issuers]] are named.
token_ports = $token_ports

""")

_PARTITION: Final = Template("""\
[partitions.$partition]
# The PKCS#11 module of the HSM.
module = $module
# The token, by label and by serial number: any other token is refused.
token_label = $token_label
token_serial = $token_serial
# A file with the user PIN and nothing else, readable by the serving user alone. A PIN
# that the token refuses is tried once: correct it before you start the region again.
user_pin_file = $user_pin_file
# Environment of the partition's process, as its module wants it. {directory} stands for
# the directory of this file.
environment = $environment
# Sessions that are open at once: 4 for SoftHSM, up to 64 for a network HSM.
sessions = $sessions
# Keys that are kept open per session; others are opened when they are used.
open_keys = $open_keys
# The least that the token must enforce: "hardened", "officer-trusted" or "basic".
profile = $profile

""")

_REST: Final = Template("""\
[store]
# Where the log and the state are kept: SQLite on this machine.
url = $url

[officer]
# A directory with SO PINs (p0.so-pin, ...), for development only: then ceremonies run
# by themselves. "" where officers type them: hsmvault ceremony.
directory = $officer

[limits]
# The largest request or response, in bytes.
message_bytes = $message_bytes
# The largest metadata of a request, in bytes.
metadata_bytes = $metadata_bytes
# Calls that one partition server takes at once; more are refused with
# RESOURCE_EXHAUSTED.
concurrent_calls = $concurrent_calls
# Connections that one listener for tokens has at once: anybody who reaches it may make
# one, and each takes a file descriptor. Raise the process's limit of these, too.
token_connections = $token_connections
# Threads that serve calls in one partition server. More than 4 pay only when the HSM is
# reached over a network.
serving_threads = $serving_threads
# Threads for calls that wait for a position; and as many for those that write, or
# wait for other regions or for RSA generation.
waiting_threads = $waiting_threads
# Calls that may wait at once.
waiting_calls = $waiting_calls
# Threads for Watch: as many streams of changes may be open at once, 4 per principal.
watching_threads = $watching_threads

[telemetry]
# Where Prometheus finds the region's metrics, as in "127.0.0.1:9464"; "" for nowhere.
# On a loopback address it is plain HTTP; on any other one, TLS, for callers with a
# certificate of the vault's CA.
metrics = $metrics
# A directory for the spans of traced calls, a file per process in OTLP's JSON, which an
# OpenTelemetry Collector reads; "" for none.
traces = $traces
# One call in so many is traced, and every call whose caller traces it.
trace_one_in = $trace_one_in

[audit]
# How often the ends of the audit trails are signed in the HSM, and the signatures
# logged, where something was written.
head_seconds = $head_seconds
# How long a file of a trail may become before the next is begun.
segment_bytes = $segment_bytes

[join]
# An extended region: the card of the primary that it was made for. "" for a primary.
card = $join

# Issuers of tokens (OpenID providers) whose callers may come in with a JWT. The region
# believes exactly these, and fetches their keys over HTTPS. Callers are then known as
# jwt:ISSUER#SUBJECT, and may do what is assigned to that. Name the same issuers in
# every region: a call that one region forwards is verified by the primary again.
#
# [[issuers]]
# issuer = "https://issuer.example/realm"    # exactly as `iss` has it
# audience = "hsmvault"                      # what `aud` must name
# ca_file = "tls/issuer-ca.pem"              # the CA of the issuer's own certificate
# algorithms = ["RS256", "ES256"]            # also RS384 … PS256 … ES512; no others
# jwks_uri = ""                              # "" asks the issuer where its keys are
# leeway_seconds = 60                        # between its clock and ours
# token_age_seconds_max = 3600               # by `iat`; without: until `exp`
# refresh_seconds = 300                      # how often its keys are fetched
# stale_seconds = 3600                       # how long they serve while it is away
""")


_DEFAULTS: Final = {f.name: f.default for f in dataclasses.fields(PartitionSettings)}


def region_toml(plan: RegionPlan, born: Mapping[str, Born]) -> str:
    """Write the settings of a region that has just been made."""
    ports = plan.require_ports()
    layout = Layout(plan.directory)
    limits = Limits()
    parts = [
        _REGION.substitute(
            name=_quoted(plan.name),
            kind=_quoted(plan.kind),
            zone=_quoted(plan.zone),
            host=_quoted(plan.host),
            advertise=_quoted(plan.advertise),
            port=ports.public,
            partition_ports=list(ports.partitions),
            private_port=ports.private,
            token_ports=list(ports.tokens),
        ),
        *(_partition(plan, layout, name, one) for name, one in born.items()),
        _REST.substitute(
            url=_quoted(StoreSettings().url),
            officer=_quoted(_officer(plan)),
            metrics=_quoted(Telemetry().metrics),
            traces=_quoted(""),
            trace_one_in=Telemetry().trace_one_in,
            join=_quoted(layout.joined.name if plan.join else ""),
            **{name: getattr(limits, name) for name in Limits.__dataclass_fields__},
            **dataclasses.asdict(Audit()),
        ),
    ]
    return "".join(parts)


def _partition(plan: RegionPlan, layout: Layout, name: str, born: Born) -> str:
    conf = _inside(layout, layout.softhsm_conf(name))
    environment = {"SOFTHSM2_CONF": f"{DIRECTORY}/{conf}"}
    return _PARTITION.substitute(
        partition=name,
        module=_quoted(str(plan.module)),
        token_label=_quoted(born.token_label),
        token_serial=_quoted(born.token_serial),
        user_pin_file=_quoted(_inside(layout, layout.pin(name))),
        environment=_table(environment),
        sessions=_DEFAULTS["sessions"],
        open_keys=_DEFAULTS["open_keys"],
        profile=_quoted(str(_DEFAULTS["profile"])),
    )


def _officer(plan: RegionPlan) -> str:
    """Name the officer's directory from where region.toml lies."""
    if plan.officer_directory is None:
        return ""
    officer, region = plan.officer_directory.absolute(), plan.directory.absolute()
    if region.parent in officer.parents[:2]:
        # Beside the regions: the whole arrangement may be moved.
        return str(Path("..") / officer.relative_to(region.parent))
    return str(officer)


def _inside(layout: Layout, path: Path) -> str:
    return str(path.relative_to(layout.directory))


def _quoted(text: str) -> str:
    # A JSON string is a TOML basic string, except for DEL, which no setting has.
    return json.dumps(text, ensure_ascii=False)


def _table(values: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{k} = {_quoted(v)}" for k, v in values.items())
    return f"{{ {pairs} }}" if pairs else "{}"
