"""Values to messages of the local protocol, and back."""

from hsmvault.local.v1 import local_service_pb2 as pb
from hsmvault.model.algorithms import Curve, KeySpec, KeyType
from hsmvault.model.log import Epoch, Head, Position
from hsmvault.model.material import Material
from hsmvault.model.stored import WrappedKey


def material_message(material: Material) -> pb.Material:
    """Write what a partition needs to open a key version."""
    return pb.Material(
        type=material.spec.type,
        bits=material.spec.bits,
        curve=material.spec.curve or "",
        public_key=material.public_key,
        wrapped=wrapped_message(material.wrapped, material.mac),
    )


def material(message: pb.Material) -> Material:
    """Read it back."""
    wrapped, mac = wrapped_key(message.wrapped)
    return Material(
        version=wrapped.version,
        spec=KeySpec(
            KeyType(message.type),
            message.bits,
            Curve(message.curve) if message.curve else None,
        ),
        public_key=message.public_key,
        wrapped=wrapped,
        mac=mac,
    )


def wrapped_message(wrapped: WrappedKey, mac: bytes) -> pb.WrappedKey:
    """Write a wrapped key and its MAC."""
    return pb.WrappedKey(
        version=wrapped.version,
        region=wrapped.region,
        wrapping_key=wrapped.wrapping_key,
        mechanism=wrapped.mechanism,
        wrapped=wrapped.wrapped,
        mac=mac,
    )


def wrapped_key(message: pb.WrappedKey) -> tuple[WrappedKey, bytes]:
    """Read it back."""
    return (
        WrappedKey(
            version=message.version,
            region=message.region,
            wrapping_key=message.wrapping_key,
            mechanism=message.mechanism,
            wrapped=message.wrapped,
        ),
        message.mac,
    )


def head_message(head: Head) -> pb.Head:
    """Write the end of a log."""
    epoch = head.position.epoch
    return pb.Head(
        epoch_number=epoch.number,
        epoch_region=epoch.region,
        index=head.position.index,
        chain=head.chain,
    )


def head(message: pb.Head) -> Head:
    """Read it back."""
    epoch = Epoch(message.epoch_number, message.epoch_region)
    return Head(Position(epoch, message.index), message.chain)
