"""The use of keys. Names are keys (their current version) or versions."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Unpack

import google_crc32c

from hsmvault.client import methods
from hsmvault.client.caller import Caller, Options
from hsmvault.client.naming import expected_name, key_name
from hsmvault.model.algorithms import USES, Operation
from hsmvault.model.errors import IntegrityFailure, InvalidRequest
from hsmvault.v1 import crypto_service_pb2 as messages

_HASHES: Final = {"256": "sha256", "384": "sha384", "512": "sha512"}


def digest_of(algorithm: str, message: bytes) -> bytes:
    """Hash a message as a signing algorithm wants it: the last digits say how."""
    digits = algorithm.removesuffix("K")[-3:]
    if digits not in _HASHES or algorithm.startswith("HS"):
        raise InvalidRequest(
            "{algorithm} does not sign; by type of key, these do: {known}",
            algorithm=algorithm[:50],
            known=", ".join(
                a for a, use in USES.items() if Operation.SIGN in use.operations
            ),
        )
    return hashlib.new(_HASHES[digits], message).digest()


def _signed(
    algorithm: str, digest: bytes | None, message: bytes
) -> tuple[bytes, bytes]:
    """Return digest and data: HS* takes the message itself."""
    if algorithm.startswith("HS"):
        return digest or b"", message
    return digest_of(algorithm, message) if digest is None else digest, b""


def _require_intact(data: bytes, crc32c: int) -> None:
    """Raise IntegrityFailure for an answer that changed on its way."""
    if google_crc32c.value(data) != crc32c:
        raise IntegrityFailure(
            "the answer is not what its CRC32C says: it changed on the way; ask again"
        )


class Crypto:
    """Signing, verifying, encrypting, wrapping: any partition, any region."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def sign(
        self,
        name: str,
        algorithm: str,
        *,
        digest: bytes | None = None,
        message: bytes = b"",
        expected_version: str = "",
        **options: Unpack[Options],
    ) -> messages.SignResponse:
        """Sign a digest, or a message, which is hashed here and never sent.

        HS* takes messages only, and they are sent: the key is in the vault. Refused
        when another version of the key is current than `expected_version`, a name or
        an id, here and wherever something is made.
        """
        digest, data = _signed(algorithm, digest, message)
        request = messages.SignRequest(
            name=key_name(name),
            algorithm=algorithm,
            digest=digest,
            data=data,
            digest_crc32c=google_crc32c.value(digest or data),
            expected_version=expected_name(name, expected_version),
        )
        answer = self._caller.call(methods.SIGN, request, **options)
        if answer.verified_digest_crc32c:
            _require_intact(answer.signature, answer.signature_crc32c)
        return answer

    def verify(
        self,
        name: str,
        algorithm: str,
        *,
        signature: bytes,
        digest: bytes | None = None,
        message: bytes = b"",
        **options: Unpack[Options],
    ) -> messages.VerifyResponse:
        """Check a signature; `valid` is False if it is not the key's."""
        digest, data = _signed(algorithm, digest, message)
        request = messages.VerifyRequest(
            name=key_name(name),
            algorithm=algorithm,
            digest=digest,
            signature=signature,
            data=data,
            digest_crc32c=google_crc32c.value(digest or data),
            signature_crc32c=google_crc32c.value(signature),
        )
        return self._caller.call(methods.VERIFY, request, **options)

    def encrypt(
        self,
        name: str,
        algorithm: str,
        plaintext: bytes,
        *,
        aad: bytes = b"",
        context: Mapping[str, str] | None = None,
        expected_version: str = "",
        **options: Unpack[Options],
    ) -> messages.EncryptResponse:
        """Encrypt. Keep the answer's name, iv and tag beside the ciphertext.

        `aad` or `context`, pairs whose order does not matter, is needed to decrypt.
        """
        request = messages.EncryptRequest(
            name=key_name(name),
            algorithm=algorithm,
            plaintext=plaintext,
            additional_authenticated_data=aad,
            encryption_context=context,
            plaintext_crc32c=google_crc32c.value(plaintext),
            additional_authenticated_data_crc32c=google_crc32c.value(aad),
            expected_version=expected_name(name, expected_version),
        )
        answer = self._caller.call(methods.ENCRYPT, request, **options)
        if answer.verified_plaintext_crc32c:
            _require_intact(answer.ciphertext, answer.ciphertext_crc32c)
        return answer

    def decrypt(
        self,
        name: str,
        algorithm: str,
        ciphertext: bytes,
        *,
        iv: bytes = b"",
        tag: bytes = b"",
        aad: bytes = b"",
        context: Mapping[str, str] | None = None,
        **options: Unpack[Options],
    ) -> messages.DecryptResponse:
        """Decrypt what `encrypt` made, by the version that it named."""
        request = messages.DecryptRequest(
            name=key_name(name),
            algorithm=algorithm,
            ciphertext=ciphertext,
            iv=iv,
            tag=tag,
            additional_authenticated_data=aad,
            encryption_context=context,
            ciphertext_crc32c=google_crc32c.value(ciphertext),
            additional_authenticated_data_crc32c=google_crc32c.value(aad),
        )
        answer = self._caller.call(methods.DECRYPT, request, **options)
        if answer.verified_ciphertext_crc32c:
            _require_intact(answer.plaintext, answer.plaintext_crc32c)
        return answer

    def re_encrypt(
        self,
        sealed: messages.EncryptResponse | messages.ReEncryptResponse,
        target: str,
        target_algorithm: str,
        *,
        aad: bytes = b"",
        context: Mapping[str, str] | None = None,
        target_aad: bytes = b"",
        target_context: Mapping[str, str] | None = None,
        **options: Unpack[Options],
    ) -> messages.ReEncryptResponse:
        """Have what `encrypt` answered encrypted by `target`, without showing it."""
        request = messages.ReEncryptRequest(
            name=sealed.name,
            algorithm=sealed.algorithm,
            ciphertext=sealed.ciphertext,
            iv=sealed.iv,
            tag=sealed.tag,
            additional_authenticated_data=aad,
            encryption_context=context,
            target_name=key_name(target),
            target_algorithm=target_algorithm,
            target_additional_authenticated_data=target_aad,
            target_encryption_context=target_context,
            ciphertext_crc32c=google_crc32c.value(sealed.ciphertext),
            additional_authenticated_data_crc32c=google_crc32c.value(aad),
            target_additional_authenticated_data_crc32c=google_crc32c.value(target_aad),
        )
        answer = self._caller.call(methods.RE_ENCRYPT, request, **options)
        if answer.verified_ciphertext_crc32c:
            _require_intact(answer.ciphertext, answer.ciphertext_crc32c)
        return answer

    def wrap(
        self,
        name: str,
        algorithm: str,
        plaintext: bytes,
        *,
        context: Mapping[str, str] | None = None,
        expected_version: str = "",
        **options: Unpack[Options],
    ) -> messages.WrapKeyResponse:
        """Wrap a key of yours; by A*GCM bound to `context`, needed to unwrap."""
        request = messages.WrapKeyRequest(
            name=key_name(name),
            algorithm=algorithm,
            plaintext=plaintext,
            encryption_context=context,
            plaintext_crc32c=google_crc32c.value(plaintext),
            expected_version=expected_name(name, expected_version),
        )
        answer = self._caller.call(methods.WRAP_KEY, request, **options)
        if answer.verified_plaintext_crc32c:
            _require_intact(answer.wrapped, answer.wrapped_crc32c)
        return answer

    def unwrap(
        self,
        name: str,
        algorithm: str,
        wrapped: bytes,
        *,
        context: Mapping[str, str] | None = None,
        **options: Unpack[Options],
    ) -> messages.UnwrapKeyResponse:
        """Unwrap what `wrap` or `generate_data_key` made, in any region."""
        request = messages.UnwrapKeyRequest(
            name=key_name(name),
            algorithm=algorithm,
            wrapped=wrapped,
            encryption_context=context,
            wrapped_crc32c=google_crc32c.value(wrapped),
        )
        answer = self._caller.call(methods.UNWRAP_KEY, request, **options)
        if answer.verified_wrapped_crc32c:
            _require_intact(answer.plaintext, answer.plaintext_crc32c)
        return answer

    def generate_data_key(
        self,
        name: str,
        *,
        algorithm: str = "",
        size: int = 32,
        without_plaintext: bool = False,
        context: Mapping[str, str] | None = None,
        expected_version: str = "",
        **options: Unpack[Options],
    ) -> messages.GenerateDataKeyResponse:
        """Make a data key of `size` bytes: use `plaintext`, keep `wrapped`.

        `without_plaintext`: for somebody else to unwrap, later. `context`: needed to
        unwrap it; the key wraps by A*GCM then.
        """
        request = messages.GenerateDataKeyRequest(
            name=key_name(name),
            algorithm=algorithm,
            bytes=size,
            without_plaintext=without_plaintext,
            encryption_context=context,
            expected_version=expected_name(name, expected_version),
        )
        answer = self._caller.call(methods.GENERATE_DATA_KEY, request, **options)
        if answer.wrapped_crc32c:
            _require_intact(answer.wrapped, answer.wrapped_crc32c)
            _require_intact(answer.plaintext, answer.plaintext_crc32c)
        return answer

    def batch(
        self, items: Iterable[messages.BatchItem], **options: Unpack[Options]
    ) -> Sequence[messages.BatchResult]:
        """Do up to 1,000 items in one call. Look at each result: it may be an error.

        Results are in the order of the items. The call itself fails only where none of
        them was done for good; then it is sent again elsewhere like any other.
        """
        request = messages.BatchRequest(items=items)
        return self._caller.call(methods.BATCH, request, **options).results

    def random(self, count: int, **options: Unpack[Options]) -> bytes:
        """Return 1 to 128 bytes from the HSM's generator."""
        request = messages.GetRandomBytesRequest(count=count)
        return self._caller.call(methods.GET_RANDOM_BYTES, request, **options).data
