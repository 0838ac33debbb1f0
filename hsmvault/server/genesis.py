"""Writing a vault's first entries, in a process that ends: it is logged in to a token.

`python -m hsmvault.server.genesis DIR`, the plan as JSON on standard input.
"""

import json
import sys
import time
from pathlib import Path

from hsmvault import config
from hsmvault.model.errors import ConfigurationError, VaultError
from hsmvault.regions.card import Card
from hsmvault.regions.genesis import VaultPlan, found
from hsmvault.server.opening import open_partition, open_store


def main() -> int:
    """Found the vault. Prints its position, or the problem, as JSON."""
    settings = config.load(Path(sys.argv[1]))
    plan = VaultPlan(**json.load(sys.stdin))
    card = Card.parse(settings.layout.card.read_text(encoding="utf-8"))
    try:
        with open_store(settings) as store:
            partition = open_partition(settings, "p0", vault_id=plan.vault_id)
            position = found(
                plan,
                card,
                store=store,
                mac=partition.mac,
                time_ms=time.time_ns() // 1_000_000,
            )
            head = store.head()
            assert head is not None
            partition.write_anchor(head)
    except (VaultError, ConfigurationError) as error:
        json.dump({"problem": str(error), "kind": type(error).__name__}, sys.stdout)
        return 1
    json.dump({"position": str(position)}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
