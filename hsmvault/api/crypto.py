"""CryptoService: the use of keys. The hot path: parse, call, convert."""

from collections.abc import Mapping
from typing import Any

from hsmvault.api.checksums import crc32c, require_intact
from hsmvault.api.dispatch import Call
from hsmvault.api.permissions import key_or_version
from hsmvault.model.errors import InvalidRequest
from hsmvault.model.names import KeyName, VersionName
from hsmvault.v1 import crypto_service_pb2 as pb
from hsmvault.vault.crypto import Crypto, Source, Target
from hsmvault.vault.plan import context_aad
from hsmvault.vault.ports import Sealed


def _bound(aad: bytes, context: Mapping[str, str]) -> bytes:
    """Return what a ciphertext is bound to, in whichever way it was said."""
    if not context:
        return aad
    if aad:
        raise InvalidRequest(
            "give additional_authenticated_data or encryption_context, not both"
        )
    return context_aad(context)


class CryptoServicer:
    """One method per RPC of CryptoService, but Batch, which calls these.

    Where it was served (the field `served`) is for the guard to add.
    """

    def __init__(self, crypto: Crypto) -> None:
        self._crypto = crypto

    def _used(self, request: Any) -> tuple[KeyName, str | None]:
        """Return what makes something new: the version that is expected, if one is."""
        name, version = key_or_version(request.name)
        if request.expected_version:
            version = self._crypto.plans.expected(
                name, version, VersionName.parse(request.expected_version)
            )
        return name, version

    def sign(self, request: pb.SignRequest, _call: Call | None) -> pb.SignResponse:
        key, version = self._used(request)
        algorithm = request.algorithm
        intact = require_intact(request, "digest", request.digest or request.data)
        name, signature = self._crypto.sign(
            key, version, algorithm, request.digest, data=request.data
        )
        return pb.SignResponse(
            name=name,
            algorithm=algorithm,
            signature=signature,
            signature_crc32c=crc32c(signature),
            verified_digest_crc32c=intact,
        )

    def verify(
        self, request: pb.VerifyRequest, _call: Call | None
    ) -> pb.VerifyResponse:
        intact = require_intact(request, "digest", request.digest or request.data)
        intact_signature = require_intact(request, "signature", request.signature)
        name, valid = self._crypto.verify(
            *key_or_version(request.name),
            request.algorithm,
            request.digest,
            request.signature,
            data=request.data,
        )
        return pb.VerifyResponse(
            name=name,
            algorithm=request.algorithm,
            valid=valid,
            verified_digest_crc32c=intact,
            verified_signature_crc32c=intact_signature,
        )

    def encrypt(
        self, request: pb.EncryptRequest, _call: Call | None
    ) -> pb.EncryptResponse:
        aad = request.additional_authenticated_data
        intact = require_intact(request, "plaintext", request.plaintext)
        intact_aad = require_intact(request, "additional_authenticated_data", aad)
        name, sealed = self._crypto.encrypt(
            *self._used(request),
            request.algorithm,
            request.plaintext,
            _bound(request.additional_authenticated_data, request.encryption_context),
        )
        return pb.EncryptResponse(
            name=name,
            algorithm=request.algorithm,
            ciphertext=sealed.ciphertext,
            iv=sealed.iv,
            tag=sealed.tag,
            ciphertext_crc32c=crc32c(sealed.ciphertext),
            verified_plaintext_crc32c=intact,
            verified_additional_authenticated_data_crc32c=intact_aad,
        )

    def decrypt(
        self, request: pb.DecryptRequest, _call: Call | None
    ) -> pb.DecryptResponse:
        aad = request.additional_authenticated_data
        intact = require_intact(request, "ciphertext", request.ciphertext)
        intact_aad = require_intact(request, "additional_authenticated_data", aad)
        name, plaintext = self._crypto.decrypt(
            *key_or_version(request.name),
            request.algorithm,
            Sealed(request.iv, request.ciphertext, request.tag),
            _bound(request.additional_authenticated_data, request.encryption_context),
        )
        return pb.DecryptResponse(
            name=name,
            algorithm=request.algorithm,
            plaintext=plaintext,
            plaintext_crc32c=crc32c(plaintext),
            verified_ciphertext_crc32c=intact,
            verified_additional_authenticated_data_crc32c=intact_aad,
        )

    def re_encrypt(
        self, request: pb.ReEncryptRequest, _call: Call | None
    ) -> pb.ReEncryptResponse:
        aad = request.additional_authenticated_data
        target_aad = request.target_additional_authenticated_data
        intact = require_intact(request, "ciphertext", request.ciphertext)
        intact_aad = require_intact(request, "additional_authenticated_data", aad)
        intact_target = require_intact(
            request, "target_additional_authenticated_data", target_aad
        )
        source = Source(
            *key_or_version(request.name),
            request.algorithm,
            Sealed(request.iv, request.ciphertext, request.tag),
            _bound(aad, request.encryption_context),
        )
        target = Target(
            *key_or_version(request.target_name),
            request.target_algorithm,
            _bound(target_aad, request.target_encryption_context),
        )
        source_name, name, sealed = self._crypto.reencrypt(source, target)
        return pb.ReEncryptResponse(
            name=name,
            algorithm=target.algorithm,
            ciphertext=sealed.ciphertext,
            iv=sealed.iv,
            tag=sealed.tag,
            source_name=source_name,
            ciphertext_crc32c=crc32c(sealed.ciphertext),
            verified_ciphertext_crc32c=intact,
            verified_additional_authenticated_data_crc32c=intact_aad,
            verified_target_additional_authenticated_data_crc32c=intact_target,
        )

    def wrap_key(
        self, request: pb.WrapKeyRequest, _call: Call | None
    ) -> pb.WrapKeyResponse:
        intact = require_intact(request, "plaintext", request.plaintext)
        name, wrapped = self._crypto.wrap(
            *self._used(request),
            request.algorithm,
            request.plaintext,
            context=request.encryption_context,
        )
        return pb.WrapKeyResponse(
            name=name,
            algorithm=request.algorithm,
            wrapped=wrapped,
            wrapped_crc32c=crc32c(wrapped),
            verified_plaintext_crc32c=intact,
        )

    def unwrap_key(
        self, request: pb.UnwrapKeyRequest, _call: Call | None
    ) -> pb.UnwrapKeyResponse:
        intact = require_intact(request, "wrapped", request.wrapped)
        name, plaintext = self._crypto.unwrap(
            *key_or_version(request.name),
            request.algorithm,
            request.wrapped,
            context=request.encryption_context,
        )
        return pb.UnwrapKeyResponse(
            name=name,
            algorithm=request.algorithm,
            plaintext=plaintext,
            plaintext_crc32c=crc32c(plaintext),
            verified_wrapped_crc32c=intact,
        )

    def generate_data_key(
        self, request: pb.GenerateDataKeyRequest, _call: Call | None
    ) -> pb.GenerateDataKeyResponse:
        name, algorithm, plaintext, wrapped = self._crypto.data_key(
            *self._used(request),
            request.algorithm,
            request.bytes,
            context=request.encryption_context,
        )
        shown = b"" if request.without_plaintext else plaintext
        return pb.GenerateDataKeyResponse(
            name=name,
            algorithm=algorithm,
            plaintext=shown,
            plaintext_crc32c=crc32c(shown),
            wrapped=wrapped,
            wrapped_crc32c=crc32c(wrapped),
        )

    def get_random_bytes(
        self, request: pb.GetRandomBytesRequest, _call: Call | None
    ) -> pb.GetRandomBytesResponse:
        return pb.GetRandomBytesResponse(data=self._crypto.random(request.count))
