"""Step 6, second half: what a foreign client gets out with the user PIN and the store.

`Stranger` is a PKCS#11 client that shares no code with us and sends whatever it is
told; pkcs11-tool is what every administrator has. What refuses them is the token.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from hsmvault import config
from scripts.demonstration.keys import AES
from scripts.demonstration.stage import Stage
from tests.support.stranger import AES as AES_TYPE
from tests.support.stranger import SECRET_KEY, Pairs, Reply, Stranger

LABEL: Final = "hsmvault:region-key:south"
KWP: Final = "AES_KEY_WRAP_PAD"


@dataclass(frozen=True)
class Token:
    """One partition of south, and all that lies in the region's directory about it."""

    module: str
    label: str
    environment: dict[str, str]
    pin: str

    @classmethod
    def of(cls, south: Path) -> Self:
        settings = config.load(south)
        partition = settings.partitions["p0"]
        return cls(
            str(partition.module),
            partition.token_label,
            settings.environment("p0"),
            partition.user_pin_file.read_text().strip(),
        )

    def stranger(self) -> Stranger:
        return Stranger(self.module, {**os.environ, **self.environment}, self.label)


def try_to_extract(
    stage: Stage, south: Path, wrapped: list[tuple[str, str, bytes]]
) -> None:
    """Have foreign clients try to get a key out of south."""
    token = Token.of(south)
    blob = next(w for name, _, w in wrapped if name == AES)
    _with_pkcs11_tool(stage, token)
    with token.stranger() as stranger:
        stage.claim(
            "a foreign PKCS#11 client logs in with the user PIN",
            true=stranger.login(token.pin).ok,
        )
        found = stranger.find(("CLASS", SECRET_KEY), ("LABEL", LABEL.encode()))
        stage.claim("it finds the region key", true=len(found) == 1)
        _attack(stage, stranger, found[0], blob)


def _attack(stage: Stage, stranger: Stranger, region_key: int, blob: bytes) -> None:
    def reopen(*, sensitive: bool) -> Reply:
        return stranger.unwrap(
            KWP, under=region_key, wrapped=blob, template=_opened(sensitive=sensitive)
        )

    opened = reopen(sensitive=True)
    stage.claim(
        f"it opens {AES} from the store inside the HSM, as the vault does",
        true=opened.ok,
    )
    _refused(stage, "it cannot read it", stranger.get(opened.handle, "VALUE"))
    _refused(stage, "nor open it as a readable one", reopen(sensitive=False))
    own = stranger.generate(
        "AES_KEY_GEN",
        [("VALUE_LEN", 32), ("TOKEN", False), ("WRAP", True), ("DECRYPT", True)],
    )
    stage.claim("it makes a key of its own, to wrap and decrypt with", true=own.ok)
    out = stranger.wrap(KWP, under=own.handle, key=opened.handle)
    _refused(stage, "it cannot wrap ours out under it", out)
    peeled = stranger.use("Decrypt", "AES_ECB", region_key, blob[:32])
    _refused(stage, "nor decrypt the store with the region key", peeled)
    _refused(stage, "nor read the region key", stranger.get(region_key, "VALUE"))


def _refused(stage: Stage, what: str, reply: Reply) -> None:
    meant = {
        "CKR_ATTRIBUTE_SENSITIVE",
        "CKR_KEY_NOT_WRAPPABLE",
        "CKR_KEY_FUNCTION_NOT_PERMITTED",
        "CKR_TEMPLATE_INCONSISTENT",
        "CKR_MECHANISM_INVALID",
    }
    stage.claim(f"{what} [dim]({reply.rv})[/]", true=reply.rv in meant)


def _opened(*, sensitive: bool) -> Pairs:
    """The template by which the vault opens a key for encryption."""
    return [
        ("CLASS", SECRET_KEY),
        ("KEY_TYPE", AES_TYPE),
        ("ENCRYPT", True),
        ("DECRYPT", True),
        ("TOKEN", False),
        ("PRIVATE", True),
        ("SENSITIVE", sensitive),
        ("EXTRACTABLE", True),
        ("WRAP_WITH_TRUSTED", True),
        ("DERIVE", False),
        ("COPYABLE", False),
        ("MODIFIABLE", False),
    ]


def _with_pkcs11_tool(stage: Stage, token: Token) -> None:
    if shutil.which("pkcs11-tool") is None:
        stage.say("pkcs11-tool is not installed; going on without it")
        return
    command = f"pkcs11-tool --module {token.module} --token-label {token.label}"
    command += f" --login --pin env:PIN --read-object --type secrkey --label {LABEL}"
    done = subprocess.run(
        command.split(),
        # A thief's tool, with a throw-away PIN: ours never stand in an environment.
        env={**os.environ, **token.environment, "PIN": token.pin},
        capture_output=True,
        check=False,
    )
    said = (done.stdout + done.stderr).decode(errors="replace").split()
    reason = next((word for word in said if word.startswith("CKR_")), "no reason given")
    stage.claim(
        f"pkcs11-tool cannot read the region key [dim]({reason})[/]",
        true=done.returncode != 0 and reason == "CKR_ATTRIBUTE_SENSITIVE",
    )
