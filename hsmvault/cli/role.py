"""`hsmvault role …`: who may do what."""

from contextlib import suppress

import click

from hsmvault.cli import printing
from hsmvault.cli.asking import Asking, changing, connected
from hsmvault.cli.groups import Command, Group
from hsmvault.model.access import BUILT_IN, Permission
from hsmvault.model.errors import AccessDenied
from hsmvault.v1.resources_pb2 import RoleDefinition


@click.group(cls=Group)
def role() -> None:
    """Show roles, define your own, assign them, and take them back."""


@role.command(cls=Command, examples=["hsmvault role definitions"])
@connected
def definitions(asking: Asking) -> None:
    """Show every role and what it grants."""
    found = list(asking.vault.roles.definitions())
    printing.many(
        found,
        ("title", "what for", "permissions"),
        ((r.title, r.description, "\n".join(sorted(r.permissions))) for r in found),
        as_json=asking.as_json,
        empty="no roles",
    )


@role.command(cls=Command, examples=['hsmvault role show "Crypto User"'])
@click.argument("title")
@connected
def show(asking: Asking, title: str) -> None:
    """Show the role TITLE (or its id)."""
    found = asking.vault.roles.show(title)
    printing.one(found, _rows(found), as_json=asking.as_json)


_ACTION = click.option(
    "--action",
    "actions",
    multiple=True,
    metavar="ACTION",
    help="What it grants: keys/sign/action, or keys/* for all that begin so.",
)
_EXCEPT = click.option(
    "--except",
    "exceptions",
    multiple=True,
    metavar="ACTION",
    help="What is taken out of that again.",
)
_DESCRIPTION = click.option("--description", help="What it is for.")


@role.command(
    cls=Command,
    examples=[
        "hsmvault role define Signer --action keys/sign/action",
        "hsmvault role define Keeper --action 'keys/*' --except 'keys/deletedKeys/*'",
    ],
)
@click.argument("title")
@_ACTION
@_EXCEPT
@_DESCRIPTION
@click.option("--id", "id_", default="", help="Its id; chosen by the vault otherwise.")
@changing
def define(
    asking: Asking,
    *,
    title: str,
    actions: tuple[str, ...],
    exceptions: tuple[str, ...],
    description: str | None,
    id_: str,
) -> None:
    """Define a role of your own. It grants nothing until it is assigned."""
    made = asking.vault.roles.define(
        title,
        actions,
        not_data_actions=exceptions,
        description=description or "",
        id_=id_,
    )
    printing.one(made, _rows(made), as_json=asking.as_json)


@role.command(
    cls=Command,
    examples=[
        "hsmvault role redefine Signer --action keys/sign/action",
        "hsmvault role redefine Keeper --title 'Key Keeper' --no-except",
    ],
)
@click.argument("role_title", metavar="TITLE")
@click.option("--title", help="What it is called from now on.")
@_ACTION
@_EXCEPT
@click.option("--no-except", is_flag=True, help="Nothing is taken out any more.")
@_DESCRIPTION
@click.option("--etag", default="", help="Refuse if it has changed since you read it.")
@changing
def redefine(
    asking: Asking,
    *,
    role_title: str,
    title: str | None,
    actions: tuple[str, ...],
    exceptions: tuple[str, ...],
    no_except: bool,
    description: str | None,
    etag: str,
) -> None:
    """Change a role of your own, for everybody who holds it.

    The actions that are given replace those that it had.
    """
    made = asking.vault.roles.redefine(
        role_title,
        title=title,
        description=description,
        data_actions=actions or None,
        not_data_actions=exceptions if exceptions or no_except else None,
        etag=etag,
    )
    printing.one(made, _rows(made), as_json=asking.as_json)


@role.command(cls=Command, examples=["hsmvault role undefine Signer"])
@click.argument("title")
@click.option("--etag", default="", help="Refuse if it has changed since you read it.")
@changing
def undefine(asking: Asking, title: str, etag: str) -> None:
    """Delete a role of your own. Its assignments stay, and grant nothing."""
    position = asking.vault.roles.undefine(title, etag=etag)
    if asking.as_json:
        printing.dump({"position": position})
    else:
        click.echo(f"{title} is deleted, at position {position}")


@role.command(
    "list",
    cls=Command,
    examples=[
        "hsmvault role list --principal CN=alice",
        "hsmvault role list --scope /keys/payroll --in-force",
        "hsmvault role list --below",
    ],
)
@click.option("--principal", default="", help="Only this caller's: wherever they are.")
@click.option("--scope", default="", help="At this scope. Default: / and /keys.")
@click.option("--in-force", is_flag=True, help="All in force there: from above, too.")
@click.option("--below", is_flag=True, help="Those at single keys, too.")
@connected
def list_assignments(
    asking: Asking, principal: str, scope: str, in_force: bool, below: bool
) -> None:
    """List role assignments."""
    roles = asking.vault.roles
    found = list(
        roles.list(
            principal=principal, scope=scope, at_scope=in_force, below_scope=below
        )
    )
    titles = {name: role.title for name, role in BUILT_IN.items()}
    if any(a.role_definition not in titles for a in found):
        # Who reads assignments at a key need not be allowed to read definitions.
        with suppress(AccessDenied):
            titles = {r.name: r.title for r in roles.definitions()}
    printing.many(
        found,
        ("id", "principal", "role", "scope", "regions", "since"),
        (
            printing.assignment_row(
                a,
                titles.get(a.role_definition, a.role_definition)
                + (" (deleted)" if a.defunct else ""),
            )
            for a in found
        ),
        as_json=asking.as_json,
        empty="no assignments",
    )


@role.command(
    cls=Command,
    examples=[
        'hsmvault role assign CN=alice "Crypto User"',
        'hsmvault role assign spiffe://example/pay "Crypto User" --scope /keys/payroll',
        'hsmvault role assign CN=bob "Crypto Auditor" --scope / --region south',
    ],
)
@click.argument("principal")
@click.argument("title")
@click.option("--scope", default="/keys", show_default=True, help="/, /keys, /keys/KEY")
@click.option(
    "--region", "regions", multiple=True, help="Only in this region; may be repeated."
)
@changing
def assign(
    asking: Asking, principal: str, title: str, scope: str, regions: tuple[str, ...]
) -> None:
    """Grant PRINCIPAL the role TITLE (or its id)."""
    made = asking.vault.roles.assign(principal, title, scope=scope, regions=regions)
    rows = {
        "id": made.name.removeprefix("roleAssignments/"),
        "principal": made.principal,
        "role": title,
        "scope": made.scope,
        "regions": ", ".join(made.regions),
        "position": made.position,
    }
    printing.one(made, rows, as_json=asking.as_json)


@role.command(cls=Command, examples=["hsmvault role revoke 2f1c…"])
@click.argument("assignment")
@changing
def revoke(asking: Asking, assignment: str) -> None:
    """Take an assignment back; in force on all partitions when it answers."""
    position = asking.vault.roles.revoke(assignment)
    if asking.as_json:
        printing.dump({"position": position})
    else:
        click.echo(f"{assignment} is revoked, at position {position}")


@role.command(
    cls=Command,
    examples=[
        "hsmvault role test --scope /keys/payroll keys/sign/action",
        "hsmvault role test",
    ],
)
@click.argument("permissions", nargs=-1)
@click.option("--scope", default="/", show_default=True, help="/, /keys, /keys/KEY")
@connected
def test(asking: Asking, permissions: tuple[str, ...], scope: str) -> None:
    """Show which PERMISSIONS you hold at a scope; by default, of all there are."""
    asked = permissions or tuple(Permission)
    held = asking.vault.roles.test(scope, asked)
    if asking.as_json:
        printing.dump({"permissions": [p for p in asked if p in held]})
        return
    for permission in asked:
        click.echo(f"{'yes' if permission in held else 'no ':3}  {permission}")


def _rows(role: RoleDefinition) -> dict[str, str]:
    """Everything of a role definition that is worth a line."""
    return {
        "id": role.name.removeprefix("roleDefinitions/"),
        "title": role.title,
        "kind": "built-in" if role.built_in else "custom",
        "what for": role.description,
        "actions": "" if role.built_in else "\n".join(role.data_actions),
        "except": "\n".join(role.not_data_actions),
        "grants": "\n".join(role.permissions),
        "changed": printing.when(role.update_time),
        "by": role.author,
        "etag": role.etag,
        "position": role.position,
    }
