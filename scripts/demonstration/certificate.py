"""Step 2: south certifies a web server with the key that north made."""

import datetime as dt
import hashlib
import secrets
import subprocess
from pathlib import Path

from asn1crypto import algos, core, csr, keys, pem, x509
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

import hsmvault
from scripts.demonstration.keys import EC
from scripts.demonstration.stage import Stage

SHOP = "shop.example"


def certify(stage: Stage, vault: hsmvault.Vault, scratch: Path) -> None:
    """Make a root and a certificate for a CSR, and have openssl verify them."""
    south = vault.at("south")
    request = _request(scratch)
    stage.say(f"openssl made a key and a CSR for [bold]{SHOP}[/]")
    public = keys.PublicKeyInfo.load(south.keys.public_key(EC).der)
    name = x509.Name.build({"common_name": "hsmvault demonstration CA"})
    info = request["certification_request_info"]
    root = _signed(stage, south, _body(name, name, public, by=public))
    leaf = _signed(
        stage,
        south,
        _body(name, info["subject"], info["subject_pk_info"], by=public),
    )
    (scratch / "root.pem").write_bytes(pem.armor("CERTIFICATE", root.dump()))
    (scratch / "shop.pem").write_bytes(pem.armor("CERTIFICATE", leaf.dump()))
    command = ["openssl", "verify", "-x509_strict", "-verify_hostname", SHOP]
    command += ["-CAfile", "root.pem", "shop.pem"]
    done = subprocess.run(
        command, cwd=scratch, capture_output=True, text=True, check=False
    )
    stage.say(f"[dim]$ {' '.join(command)}[/]")
    stage.say(f"[dim]{(done.stdout + done.stderr).strip()}[/]")
    stage.claim("openssl verify accepts it", true=done.returncode == 0)


def _request(scratch: Path) -> csr.CertificationRequest:
    subprocess.run(
        (
            "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
            f"-keyout shop.key -out shop.csr -subj /CN={SHOP}"
        ).split(),
        cwd=scratch,
        capture_output=True,
        check=True,
    )
    _, _, der = pem.unarmor((scratch / "shop.csr").read_bytes())
    return csr.CertificationRequest.load(der)


def _body(
    issuer: x509.Name,
    subject: x509.Name,
    public: keys.PublicKeyInfo,
    *,
    by: keys.PublicKeyInfo,
) -> x509.TbsCertificate:
    authority = public is by
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    extensions = [
        _extension(
            "basic_constraints", x509.BasicConstraints({"ca": authority}), critical=True
        ),
        _extension("key_identifier", core.OctetString(_identifier(public))),
        _extension(
            "authority_key_identifier",
            x509.AuthorityKeyIdentifier({"key_identifier": _identifier(by)}),
        ),
    ]
    if authority:
        usage = x509.KeyUsage({"key_cert_sign", "crl_sign"})
    else:
        usage = x509.KeyUsage({"digital_signature"})
        names = x509.GeneralNames([x509.GeneralName("dns_name", SHOP)])
        extensions.append(_extension("subject_alt_name", names))
    extensions.append(_extension("key_usage", usage, critical=True))
    return x509.TbsCertificate(
        {
            "version": "v3",
            "serial_number": secrets.randbits(127),
            "signature": algos.SignedDigestAlgorithm({"algorithm": "sha256_ecdsa"}),
            "issuer": issuer,
            "validity": x509.Validity(
                {
                    "not_before": x509.Time("utc_time", now),
                    "not_after": x509.Time("utc_time", now + dt.timedelta(days=90)),
                }
            ),
            "subject": subject,
            "subject_public_key_info": public,
            "extensions": extensions,
        }
    )


def _extension(
    kind: str, value: core.Asn1Value, *, critical: bool = False
) -> x509.Extension:
    return x509.Extension({"extn_id": kind, "critical": critical, "extn_value": value})


def _identifier(public: keys.PublicKeyInfo) -> bytes:
    return hashlib.sha256(public.dump()).digest()[:20]


def _signed(
    stage: Stage, south: hsmvault.Vault, body: x509.TbsCertificate
) -> x509.Certificate:
    """Have the vault sign; X.509 wants r and s as DER, the vault answers them raw."""
    answer = south.sign(EC, "ES256", message=body.dump())
    r, s = (int.from_bytes(answer.signature[n : n + 32], "big") for n in (0, 32))
    served = answer.served
    stage.say(f"signed in [bold]{served.region}/{served.partition}[/] by {answer.name}")
    return x509.Certificate(
        {
            "tbs_certificate": body,
            "signature_algorithm": body["signature"],
            "signature_value": encode_dss_signature(r, s),
        }
    )
