"""Every Cryptoki error, by what it says about whom: caller, session, or device.

One table, complete by test over python-pkcs11's exceptions. What is not in it (a
vendor's own code, say) is the device's fault.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from pkcs11 import exceptions as ck


class Fault(Enum):
    """Whose fault an error is, and so what follows from it."""

    CALLER = "caller"
    """The input: no session is dropped and nothing counts against the partition."""
    AMBIGUOUS = "ambiguous"
    """Bad input and a sick device answer alike: the canary decides."""
    HANDLE = "handle"
    """The key's handle is gone: drop it, and try once in another session."""
    SESSION = "session"
    """The session is gone or confused: replace it, and try once in another."""
    CAPACITY = "capacity"
    """The token is full: shed."""
    DEVICE = "device"
    """The partition is lost: this process ends and is started again."""
    PIN = "pin"
    """Stop, and never try again by itself."""
    UNSUPPORTED = "unsupported"
    """The token does not offer this."""


FAULTS: Final[Mapping[type[ck.PKCS11Error], Fault]] = MappingProxyType(
    {
        ck.AttributeReadOnly: Fault.CALLER,
        ck.AttributeSensitive: Fault.CALLER,
        ck.AttributeTypeInvalid: Fault.CALLER,
        ck.AttributeValueInvalid: Fault.CALLER,
        ck.DataInvalid: Fault.CALLER,
        ck.DataLenRange: Fault.CALLER,
        ck.EncryptedDataInvalid: Fault.CALLER,
        ck.EncryptedDataLenRange: Fault.CALLER,
        ck.KeyIndigestible: Fault.CALLER,
        ck.KeyNeeded: Fault.CALLER,
        ck.KeyNotNeeded: Fault.CALLER,
        ck.KeyNotWrappable: Fault.CALLER,
        ck.KeySizeRange: Fault.CALLER,
        ck.KeyTypeInconsistent: Fault.CALLER,
        ck.KeyUnextractable: Fault.CALLER,
        ck.MechanismParamInvalid: Fault.CALLER,
        ck.PublicKeyInvalid: Fault.CALLER,
        ck.SignatureInvalid: Fault.CALLER,
        ck.SignatureLenRange: Fault.CALLER,
        ck.TemplateIncomplete: Fault.CALLER,
        ck.TemplateInconsistent: Fault.CALLER,
        ck.UnwrappingKeySizeRange: Fault.CALLER,
        ck.UnwrappingKeyTypeInconsistent: Fault.CALLER,
        ck.WrappedKeyInvalid: Fault.CALLER,
        ck.WrappedKeyLenRange: Fault.CALLER,
        ck.WrappingKeySizeRange: Fault.CALLER,
        ck.WrappingKeyTypeInconsistent: Fault.CALLER,
        # SoftHSM answers CKR_GENERAL_ERROR to a tampered ciphertext, nShield
        # CKR_FUNCTION_FAILED; SoftHSM says CKR_ARGUMENTS_BAD to an odd parameter.
        ck.ArgumentsBad: Fault.AMBIGUOUS,
        ck.FunctionFailed: Fault.AMBIGUOUS,
        ck.GeneralError: Fault.AMBIGUOUS,
        ck.KeyHandleInvalid: Fault.HANDLE,
        ck.NoSuchKey: Fault.HANDLE,
        ck.ObjectHandleInvalid: Fault.HANDLE,
        ck.UnwrappingKeyHandleInvalid: Fault.HANDLE,
        ck.WrappingKeyHandleInvalid: Fault.HANDLE,
        ck.FunctionCancelled: Fault.SESSION,
        ck.OperationActive: Fault.SESSION,
        ck.OperationNotInitialized: Fault.SESSION,
        ck.SessionClosed: Fault.SESSION,
        ck.SessionHandleInvalid: Fault.SESSION,
        ck.SessionReadOnly: Fault.SESSION,
        ck.DeviceMemory: Fault.CAPACITY,
        ck.ExceededMaxIterations: Fault.CAPACITY,
        ck.HostMemory: Fault.CAPACITY,
        ck.SessionCount: Fault.CAPACITY,
        ck.AnotherUserAlreadyLoggedIn: Fault.DEVICE,
        ck.DeviceError: Fault.DEVICE,
        ck.DeviceRemoved: Fault.DEVICE,
        ck.MultipleObjectsReturned: Fault.DEVICE,
        ck.MultipleTokensReturned: Fault.DEVICE,
        ck.NoEvent: Fault.DEVICE,
        ck.NoSuchToken: Fault.DEVICE,
        ck.RandomNoRNG: Fault.DEVICE,
        ck.SessionExists: Fault.DEVICE,
        ck.SessionReadOnlyExists: Fault.DEVICE,
        ck.SessionReadWriteSOExists: Fault.DEVICE,
        ck.SlotIDInvalid: Fault.DEVICE,
        ck.TokenNotPresent: Fault.DEVICE,
        ck.TokenNotRecognised: Fault.DEVICE,
        ck.TokenWriteProtected: Fault.DEVICE,
        # The login is the process's: lost, it is had back by starting again.
        ck.UserNotLoggedIn: Fault.DEVICE,
        ck.UserAlreadyLoggedIn: Fault.DEVICE,
        ck.UserTooManyTypes: Fault.DEVICE,
        ck.PinExpired: Fault.PIN,
        ck.PinIncorrect: Fault.PIN,
        ck.PinInvalid: Fault.PIN,
        ck.PinLenRange: Fault.PIN,
        ck.PinLocked: Fault.PIN,
        ck.PinTooWeak: Fault.PIN,
        ck.UserPinNotInitialized: Fault.PIN,
        ck.DomainParamsInvalid: Fault.UNSUPPORTED,
        ck.FunctionNotSupported: Fault.UNSUPPORTED,
        ck.FunctionRejected: Fault.UNSUPPORTED,
        ck.MechanismInvalid: Fault.UNSUPPORTED,
        ck.RandomSeedNotSupported: Fault.UNSUPPORTED,
    }
)
"""Whose fault each error is."""


def fault(error: ck.PKCS11Error) -> Fault:
    """Say whose fault an error is; what is unknown is the device's."""
    return FAULTS.get(type(error), Fault.DEVICE)
