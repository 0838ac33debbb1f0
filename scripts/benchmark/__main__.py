"""Measure the vault beside the floor, the no-op server and the raw token."""

import contextlib
import functools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from hsmvault.v1 import crypto_service_pb2 as messages
from hsmvault.v1 import crypto_service_pb2_grpc, resources_pb2
from scripts.benchmark import bare, load, vault
from scripts.benchmark.report import BatchRow, Report, Row

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
SPECS = {
    "ES256": resources_pb2.KeySpec(type="EC", curve="P-256"),
    "PS256": resources_pb2.KeySpec(type="RSA", bits=2048),
    "A256GCM": resources_pb2.KeySpec(type="oct", bits=256),
}


BATCH = 100
"""Items in a batch."""
_LONGER = 4
"""Batches have fewer turns and longer ones: the raw token's process has to begin."""


@dataclass(frozen=True, slots=True)
class Target:
    """One server under load."""

    pid: int
    stub: crypto_service_pb2_grpc.CryptoServiceStub
    names: dict[str, str]
    """The key to use, by algorithm."""

    def calls(self, algorithm: str) -> tuple[load.Call, load.Future]:
        """The call to make, blocking and not."""
        if algorithm == "A256GCM":
            sealed = messages.EncryptRequest(
                name=self.names[algorithm], algorithm=algorithm, plaintext=bare.BLOCK
            )
            encrypt = self.stub.Encrypt
            return lambda: encrypt(sealed), lambda: encrypt.future(sealed)
        signed = self._sign(algorithm)
        sign = self.stub.Sign
        return lambda: sign(signed), lambda: sign.future(signed)

    def batch(self, algorithm: str) -> load.Future:
        """A call of many signatures."""
        item = messages.BatchItem(sign=self._sign(algorithm))
        request = messages.BatchRequest(items=[item] * BATCH)
        batch = self.stub.Batch
        return lambda: batch.future(request)

    def _sign(self, algorithm: str) -> messages.SignRequest:
        return messages.SignRequest(
            name=self.names[algorithm], algorithm=algorithm, digest=bare.DIGEST
        )


@contextlib.contextmanager
def beside(mode: str, region: vault.Vault, token: tuple[str, str]) -> Iterator[Target]:
    """Run the floor (or no-op) server with the same certificates."""
    tls = region.directory / "tls"
    config = {
        "module": MODULE,
        "label": token[0],
        "pin": token[1],
        "key": str(tls / "server.key"),
        "certificate": str(tls / "server.pem"),
        "ca": str(tls / "ca.pem"),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "scripts.benchmark.floor", mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(config) + "\n")
        process.stdin.flush()
        port = int(process.stdout.readline())
        with vault.channel(region.caller, f"127.0.0.1:{port}") as channel:
            yield Target(
                process.pid,
                crypto_service_pb2_grpc.CryptoServiceStub(channel),
                dict.fromkeys(SPECS, "keys/benchmark"),
            )
        process.stdin.close()


def raw_rates(
    token: tuple[str, str], seconds: float, core: int | None = None
) -> dict[str, load.Measured]:
    """The raw token's rates, from a process of its own, on one core if so asked."""
    config = {
        "module": MODULE,
        "label": token[0],
        "pin": token[1],
        "seconds": seconds,
        "core": core,
    }
    answer = subprocess.run(
        [sys.executable, "-m", "scripts.benchmark.raw"],
        input=json.dumps(config) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    return {a: load.Measured(*each) for a, each in json.loads(answer.stdout).items()}


def pin(pid: int, core: int) -> None:
    """Keep all threads of a process on one core, where there are several."""
    if (os.cpu_count() or 1) > 1:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def measure(
    servers: dict[str, Target],
    raw: dict[str, load.Measured],
    rounds: int,
    seconds: float,
) -> Iterator[Row]:
    """Every load on every server, in turns, so that a noisy second hits them alike.

    In an order that changes: who comes after whom makes a difference of its own.
    """
    chance = random.Random(0)  # noqa: S311  # nothing hangs on it
    loads: dict[str, Callable[[Target, str], int]] = {
        "unary": lambda t, a: load.unary(t.calls(a)[0], seconds),
        "8 callers": lambda t, a: load.concurrent(t.calls(a)[0], seconds),
        "100 in flight": lambda t, a: load.parallel(t.calls(a)[1], seconds),
    }
    for algorithm in SPECS:
        for name, run in loads.items():
            row = Row(name, algorithm, [], [], [], raw[algorithm].rate)
            into = {"vault": row.vault, "floor": row.floor, "noop": row.noop}
            for _ in range(rounds):
                for server in chance.sample(list(servers), len(servers)):
                    target = servers[server]
                    # What the one before left in the caches is not its own.
                    load.unary(target.calls(algorithm)[0], seconds / 10)
                    work = functools.partial(run, target, algorithm)
                    one = load.measured(target.pid, work)
                    into[server].append(one)
            yield row


def batches(
    target: Target, token: tuple[str, str], rounds: int, seconds: float, core: int
) -> list[BatchRow]:
    """Batches of signatures, two under way, in turns with the raw token."""
    rows = [BatchRow(algorithm, BATCH, [], []) for algorithm in ("ES256", "PS256")]
    for _ in range(rounds):
        for row in rows:
            call = target.batch(row.algorithm)

            def run(call: load.Future = call) -> int:
                return BATCH * load.parallel(call, seconds, width=2)

            row.vault.append(load.measured(target.pid, run))
        raw = raw_rates(token, seconds, core)
        for row in rows:
            row.raw.append(raw[row.algorithm])
    return rows


def opening(
    region: vault.Vault, raw: dict[str, load.Measured], report: Report, count: int
) -> None:
    """CreateKey's rate, opening on a miss, and the memory of open keys."""
    pid = region.pid("p0")
    report.facts["memory per partition server, idle"] = (
        f"{vault.resident_mb(pid):.0f} MB"
    )
    with vault.channel(region.caller, region.endpoint(1)) as sibling:
        names, rate = vault.create_many(sibling, "open", count)
    report.facts["CreateKey P-256, 4 at a time"] = (
        f"{rate:.0f}/s; raw token, made and wrapped: {raw['create'].rate:.0f}/s"
    )
    with vault.channel(region.caller, region.endpoint(0)) as channel:
        stub = crypto_service_pb2_grpc.CryptoServiceStub(channel)
        requests = iter(
            messages.SignRequest(name=name, algorithm="ES256", digest=bare.DIGEST)
            for name in names
        )

        def each() -> int:
            for request in requests:
                stub.Sign(request)
            return count

        missed = load.measured(pid, each)
    report.facts["Sign P-256, key not open yet"] = (
        f"{missed.rate:.0f}/s ({missed.cpu_us:.0f} µs); raw token, opened and used: "
        f"{raw['open'].rate:.0f}/s"
    )
    report.facts[f"memory per partition server, {count} keys opened"] = (
        f"{vault.resident_mb(pid):.0f} MB"
    )


@click.command()
@click.option("--seconds", default=0.5, show_default=True, help="Length of a round.")
@click.option("--rounds", default=12, show_default=True, help="Rounds per load.")
@click.option("--keys", default=1000, show_default=True, help="Keys to open.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all.")
def main(seconds: float, rounds: int, keys: int, json_file: Path | None) -> None:
    """Print our rates as ratios to the floor's, measured in this one run.

    The load runs on one core, the server under load on another, in many short turns;
    what is printed are medians of them. Takes four minutes.

    Example: ./scripts/bench --rounds 24 --json bench.json
    """
    console, report = Console(width=110), Report()
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        console.print("making a region …")
        region = stack.enter_context(vault.serving(home))
        report.facts["region serving after start"] = f"{region.start_seconds:.2f} s"
        token = bare.make_token(home / "bare")
        channel = stack.enter_context(vault.channel(region.caller, region.endpoint(0)))
        names = {a: vault.create(channel, f"b-{a}", s) for a, s in SPECS.items()}
        stub = crypto_service_pb2_grpc.CryptoServiceStub(channel)
        servers = {
            "vault": Target(region.pid("p0"), stub, names),
            "floor": stack.enter_context(beside("floor", region, token)),
            "noop": stack.enter_context(beside("noop", region, token)),
        }
        raw = raw_rates(token, seconds * _LONGER)
        last = (os.cpu_count() or 1) - 1
        pin(os.getpid(), 0)
        for target in servers.values():
            pin(target.pid, last)
        for row in measure(servers, raw, rounds, seconds):
            report.rows.append(row)
            console.print(f"  {row.load} {row.algorithm}: {row.of_floor:.0%} of floor")
        report.batches = batches(
            servers["vault"],
            token,
            max(rounds // _LONGER, 1),
            seconds * _LONGER,
            last,
        )
        opening(region, raw, report, keys)
    report.show(console)
    if json_file is not None:
        json_file.write_text(report.to_json())


if __name__ == "__main__":
    main(prog_name="./scripts/bench")
