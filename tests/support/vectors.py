"""Published test vectors: NIST's CAVP, RSA Laboratories', the RFCs', from their files.

They come with the package cryptography-vectors, of the release of `cryptography` that
is locked.
"""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cryptography_vectors
from cryptography.hazmat.primitives.asymmetric import rsa

_ROOT: Final = Path(cryptography_vectors.__file__).parent

Record = dict[str, str]


def _lines(name: str) -> list[str]:
    return (_ROOT / name).read_text(encoding="latin-1").splitlines()


def records(name: str, *, per_section: int | None = None) -> Iterator[Record]:
    """Yield CAVP's records: `NAME = value` lines up to a blank, and FAIL.

    What stands in brackets goes into each record of its section, as does what is said
    once, above them. So many are taken of a section, good and bad ones in turn.
    """
    section: Record = {}
    record: Record = {}
    good = bad = 0
    for line in [*_lines(name), ""]:
        text = line.strip()
        if text.startswith("["):
            if record or good or bad:
                section, good, bad = {}, 0, 0
            key, _, value = text.strip("[]").partition("=")
            section = {**section, key.strip(): value.strip()}
        elif "=" in text and not text.startswith("#"):
            key, _, value = text.partition("=")
            record[key.strip()] = value.strip()
        elif text == "FAIL":
            record["FAIL"] = text
        elif not text and record:
            failed = "FAIL" in record or record.get("Result", "P").startswith("F")
            count = bad if failed else good
            if per_section is None or count < per_section:
                yield {**section, **record}
            good, bad = good + (not failed), bad + failed
            record = {}


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


Encrypted = tuple[rsa.RSAPrivateKey, bytes, bytes]
"""Key, message, ciphertext."""


def rsa_encrypted(name: str, *, bits: int) -> Iterator[Encrypted]:
    """Yield RSA Laboratories' examples by keys of this size."""
    fields: dict[str, str] = {}
    field = ""
    for line in [*_lines(name), "# End:"]:
        if line.startswith("#"):
            if field == "Encryption" and (key := _key(fields, bits)):
                yield key, unhex(fields["Message"]), unhex(fields["Encryption"])
            field = (
                line[1:].strip().removesuffix(":") if line.strip()[-1] == ":" else ""
            )
            fields[field] = ""
        elif line.strip():
            fields[field] = fields.get(field, "") + line.replace(" ", "")


_KEYS: Final[dict[str, rsa.RSAPrivateKey]] = {}


def _key(fields: dict[str, str], bits: int) -> rsa.RSAPrivateKey | None:
    n, e, d, p, q = (
        int(fields[name], 16)
        for name in ("Modulus", "Public exponent", "Exponent", "Prime 1", "Prime 2")
    )
    if n.bit_length() != bits:
        return None
    if fields["Modulus"] not in _KEYS:
        _KEYS[fields["Modulus"]] = rsa.RSAPrivateNumbers(
            p,
            q,
            d,
            rsa.rsa_crt_dmp1(d, p),
            rsa.rsa_crt_dmq1(d, q),
            rsa.rsa_crt_iqmp(p, q),
            rsa.RSAPublicNumbers(e, n),
        ).private_key()
    return _KEYS[fields["Modulus"]]


def rfc6979() -> Iterator[tuple[str, str, bytes, bytes, bytes, bool]]:
    """Yield curve, hash, public key, message, signature, and whether it is one."""
    keys: dict[str, bytes] = {}
    blocks = "\n".join(
        _lines("asymmetric/ECDSA/RFC6979/evppkey_ecdsa_rfc6979.txt")
    ).split("\n\n")
    for block in blocks:
        fields = dict(
            [part.strip() for part in line.split("=", 1)]
            for line in block.splitlines()
            if "=" in line and not line.startswith(("-", "#"))
        )
        if "PublicKey" in fields:
            pem = block.split("-----")[2]
            keys[fields["PublicKey"]] = base64.b64decode(pem)
        elif "DigestVerify" in fields:
            name = fields["Key"]
            yield (
                name.removesuffix("_PUB"),
                fields["DigestVerify"],
                keys[name],
                fields["Input"].strip('"').encode(),
                unhex(fields["Output"]),
                "Result" not in fields,
            )
