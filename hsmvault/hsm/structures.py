"""Cryptoki's C structures, as far as ceremonies need them."""

import ctypes
from typing import Final

from pkcs11.mechanisms import Mechanism

_FUNCTIONS: Final = [
    "Initialize",
    "Finalize",
    "GetInfo",
    "GetFunctionList",
    "GetSlotList",
    "GetSlotInfo",
    "GetTokenInfo",
    "GetMechanismList",
    "GetMechanismInfo",
    "InitToken",
    "InitPIN",
    "SetPIN",
    "OpenSession",
    "CloseSession",
    "CloseAllSessions",
    "GetSessionInfo",
    "GetOperationState",
    "SetOperationState",
    "Login",
    "Logout",
    "CreateObject",
    "CopyObject",
    "DestroyObject",
    "GetObjectSize",
    "GetAttributeValue",
    "SetAttributeValue",
    "FindObjectsInit",
    "FindObjects",
    "FindObjectsFinal",
    "EncryptInit",
    "Encrypt",
    "EncryptUpdate",
    "EncryptFinal",
    "DecryptInit",
    "Decrypt",
    "DecryptUpdate",
    "DecryptFinal",
    "DigestInit",
    "Digest",
    "DigestUpdate",
    "DigestKey",
    "DigestFinal",
    "SignInit",
    "Sign",
    "SignUpdate",
    "SignFinal",
    "SignRecoverInit",
    "SignRecover",
    "VerifyInit",
    "Verify",
    "VerifyUpdate",
    "VerifyFinal",
    "VerifyRecoverInit",
    "VerifyRecover",
    "DigestEncryptUpdate",
    "DecryptDigestUpdate",
    "SignEncryptUpdate",
    "DecryptVerifyUpdate",
    "GenerateKey",
    "GenerateKeyPair",
    "WrapKey",
    "UnwrapKey",
    "DeriveKey",
    "SeedRandom",
    "GenerateRandom",
]
"""CK_FUNCTION_LIST from its start, in its order, as far as we go."""


class FunctionList(ctypes.Structure):
    """CK_FUNCTION_LIST, as far as we go."""

    _fields_ = (
        ("version", ctypes.c_ubyte * 2),
        *((name, ctypes.c_void_p) for name in _FUNCTIONS),
    )


class InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS; the four mutex functions stay NULL."""

    _fields_ = (
        ("mutex_functions", ctypes.c_void_p * 4),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    )


class CkMechanism(ctypes.Structure):
    """CK_MECHANISM."""

    _fields_ = (
        ("mechanism", ctypes.c_ulong),
        ("parameter", ctypes.c_void_p),
        ("length", ctypes.c_ulong),
    )


class OaepParams(ctypes.Structure):
    """CK_RSA_PKCS_OAEP_PARAMS."""

    _fields_ = (
        ("hash", ctypes.c_ulong),
        ("mgf", ctypes.c_ulong),
        ("source", ctypes.c_ulong),
        ("source_data", ctypes.c_void_p),
        ("source_length", ctypes.c_ulong),
    )


OAEP_SHA1: Final = bytes(OaepParams(0x220, 1, 1, None, 0))
"""The one OAEP that SoftHSM has. Here it hides 32 random bytes, and is not a MAC."""


def how_to(mechanism: Mechanism, parameter: bytes = b"") -> CkMechanism:
    """Return the mechanism with its parameter, in memory as long as it lives."""
    how = CkMechanism(int(mechanism), None, len(parameter))
    if parameter:
        # ctypes keeps the buffer alive with the structure that points to it.
        how.kept = ctypes.create_string_buffer(parameter, len(parameter))
        how.parameter = ctypes.addressof(how.kept)
    return how
