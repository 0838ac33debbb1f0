"""`hsmvault batch`: many uses of keys from a file, one JSON object to the line.

A line is a BatchItem as JSON has it: a reference, and one operation with the fields of
its request, bytes in base64. A line comes back for each, in the same order.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final

import click
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.rpc.error_details_pb2 import ErrorInfo

from hsmvault.cli import bars, files, printing
from hsmvault.cli.asking import Asking, connected
from hsmvault.cli.groups import Command
from hsmvault.client.naming import key_name
from hsmvault.model.decoding import from_json
from hsmvault.v1.crypto_service_pb2 import BatchItem, BatchResult

ITEMS_MAX: Final = 1000
BYTES_MAX: Final = 192 * 1024
"""Of the items of one call: a request has at most 256 KiB."""


def _item(line: bytes, number: int) -> BatchItem:
    try:
        item = ParseDict(from_json(line), BatchItem())
        kind = item.WhichOneof("operation")
        if kind is None:
            raise ValueError("it names no operation")
    except (ValueError, ParseError, AttributeError) as error:
        raise click.UsageError(
            f"line {number} is no item: {str(error).rstrip('.')}. One looks like this: "
            '{"reference": "1", "sign": {"name": "payroll", "algorithm": "ES256", '
            '"digest": "<base64>"}}'
        ) from error
    operation = getattr(item, kind)
    operation.name = key_name(operation.name)
    return item


def _chunks(source: Iterable[bytes], size: int) -> Iterator[list[BatchItem]]:
    """Read items, as many to a call as it takes."""
    chunk: list[BatchItem] = []
    room = BYTES_MAX
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        item = _item(line, number)
        if chunk and (len(chunk) == size or item.ByteSize() > room):
            yield chunk
            chunk, room = [], BYTES_MAX
        chunk.append(item)
        room -= item.ByteSize()
    if chunk:
        yield chunk


def _written(result: BatchResult) -> Mapping[str, Any]:
    """Say a result as a line has it; an error by its reason, as everywhere."""
    if not result.HasField("error"):
        return MessageToDict(result, preserving_proto_field_name=True)
    info = ErrorInfo()
    for detail in result.error.details:
        detail.Unpack(info)
    return {
        "reference": result.reference,
        "error": {"reason": info.reason, "message": result.error.message},
    }


@click.command(
    cls=Command,
    examples=[
        "hsmvault batch orders.jsonl --out signed.jsonl",
        "hsmvault batch < orders.jsonl | jq -r .sign.signature",
    ],
)
@files.FILE
@click.option(
    "--size",
    default=100,
    show_default=True,
    type=click.IntRange(1, ITEMS_MAX),
    help="Items to a call.",
)
@files.OUT
@connected
def batch(asking: Asking, *, source: IO[bytes], size: int, target: Path | None) -> None:
    """Sign, verify, encrypt, decrypt, wrap and unwrap by the thousand.

    FILE has a JSON object to the line: a reference and one of sign, verify, encrypt,
    decrypt, wrap_key and unwrap_key. Each is answered by a line of its own, and fails
    by itself; exit code 1 if any did.
    """
    done = failed = 0
    begun = time.monotonic()
    with ExitStack() as stack:
        told = stack.enter_context(bars.counted("batch"))
        out = sys.stdout.buffer
        if target is not None:
            out = stack.enter_context(files.private(target))
        for chunk in _chunks(source, size):
            for result in asking.vault.batch(chunk):
                failed += result.HasField("error")
                done += 1
                line = json.dumps(_written(result), ensure_ascii=False)
                out.write(line.encode() + b"\n")
            # Whatever happens next, what was done can be read.
            out.flush()
            told(done, failed)
    if asking.as_json and target is not None:
        seconds = round(time.monotonic() - begun, 3)
        printing.dump({"items": done, "failed": failed, "seconds": seconds})
    if failed:
        raise SystemExit(1)
