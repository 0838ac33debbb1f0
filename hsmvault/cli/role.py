"""`hsmvault role …`: who may do what."""

import click

from hsmvault.cli import printing
from hsmvault.cli.asking import Asking, connected
from hsmvault.cli.groups import Command, Group


@click.group(cls=Group)
def role() -> None:
    """Show roles, assign them, and take them back."""


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


@role.command("list", cls=Command, examples=["hsmvault role list --principal CN=alice"])
@click.option("--principal", default="", help="Only those of this caller.")
@click.option("--scope", default="", help="Only those at exactly this scope.")
@connected
def list_assignments(asking: Asking, principal: str, scope: str) -> None:
    """List role assignments."""
    found = list(asking.vault.roles.list(principal=principal, scope=scope))
    titles = {r.name: r.title for r in asking.vault.roles.definitions()}
    printing.many(
        found,
        ("id", "principal", "role", "scope", "since"),
        (
            printing.assignment_row(a, titles.get(a.role_definition, a.role_definition))
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
    ],
)
@click.argument("principal")
@click.argument("title")
@click.option("--scope", default="/keys", show_default=True, help="/, /keys, /keys/KEY")
@connected
def assign(asking: Asking, principal: str, title: str, scope: str) -> None:
    """Grant PRINCIPAL the role TITLE (or its id)."""
    made = asking.vault.roles.assign(principal, title, scope=scope)
    rows = {
        "id": made.name.removeprefix("roleAssignments/"),
        "principal": made.principal,
        "role": title,
        "scope": made.scope,
        "position": made.position,
    }
    printing.one(made, rows, as_json=asking.as_json)


@role.command(cls=Command, examples=["hsmvault role revoke 2f1c… "])
@click.argument("assignment")
@connected
def revoke(asking: Asking, assignment: str) -> None:
    """Take an assignment back; in force on all partitions when it answers."""
    position = asking.vault.roles.revoke(assignment)
    if asking.as_json:
        printing.dump({"position": position})
    else:
        click.echo(f"{assignment} is revoked, at position {position}")
