"""`ignite organization` and `service-account`: AdminService, by client certificate.

The certificates are those that the server on this machine made for its operator, or lie in the
folder that --pki names.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click
import grpc

from ignite.cli import endpoints
from ignite.cli.failures import Failure, WrongUse, rpc_failure
from ignite.cli.flags import Group, flags_of, reason_of
from ignite.cli.output import Column, moment, show_list, show_record
from ignite.cli.session import OPTIONS, Session, Unary, pages, session_of
from ignite.v1 import ignite_admin_pb2 as pb
from ignite.v1.ignite_admin_pb2_grpc import AdminServiceStub

CA, CERTIFICATE, KEY = "ca.pem", "client.pem", "client-key.pem"
Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """AdminService, reached as its operator."""

    session: Session
    stub: AdminServiceStub
    target: str

    def call(self, method: Unary[Asked, Answered], request: Asked) -> Answered:
        """Call `method`; the certificate is the identity, so no token goes along."""
        try:
            return method(request, timeout=self.session.remaining())
        except grpc.RpcError as error:
            raise rpc_failure(error, self.target) from error


@contextmanager
def _operator(ctx: click.Context) -> Iterator[Operator]:
    session = session_of(ctx)
    group = ctx.parent.params if ctx.parent is not None else {}
    server = session.local
    address = group.get("admin_endpoint") or (server.admin if server else "")
    folder = group.get("pki") or (server.pki if server else None)
    if not address or folder is None:
        raise WrongUse(
            "no admin listener: run this where the server runs, or give --admin-endpoint and --pki"
        )
    target = endpoints.parse(address, plaintext=False).target
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(folder / CA),
        private_key=_read(folder / KEY),
        certificate_chain=_read(folder / CERTIFICATE),
    )
    options = (*OPTIONS, ("grpc.enable_http_proxy", 0))
    with grpc.secure_channel(target, credentials, options=options) as channel:
        yield Operator(session=session, stub=AdminServiceStub(channel), target=target)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {path}: {reason_of(error)}") from error


class AdminGroup(Group):
    """A group whose commands go to the admin listener."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(
                ["--admin-endpoint"],
                envvar="IGNITE_ADMIN_ENDPOINT",
                help="Address of the admin listener; default: the local server's.",
            ),
            click.Option(
                ["--pki"],
                envvar="IGNITE_PKI_DIR",
                type=click.Path(path_type=Path),
                help=f"Folder with {CA}, {CERTIFICATE} and {KEY}.",
            ),
        ]


@click.group(cls=AdminGroup)
def organization(**_where: object) -> None:
    """Manage the organisations of an installation (operator)."""


@organization.command("create")
@click.argument("name")
@click.option("--description", default="")
@click.pass_context
def create_organization(ctx: click.Context, name: str, description: str) -> None:
    """Create an organisation."""
    with _operator(ctx) as operator:
        request = pb.CreateOrganizationRequest(name=name, description=description)
        answer = operator.call(operator.stub.CreateOrganization, request)
    made = answer.organization
    fields = {"id": made.id, "name": made.name, "description": made.description}
    show_record(flags_of(ctx).output, answer, fields)


@organization.command("list")
@click.pass_context
def list_organizations(ctx: click.Context) -> None:
    """List all organisations."""
    with _operator(ctx) as operator:

        def ask(start: str) -> pb.ListOrganizationsResponse:
            request = pb.ListOrganizationsRequest(cursor=start)
            return operator.call(operator.stub.ListOrganizations, request)

        found = [item for answer in pages(ask) for item in answer.organizations]
    columns: list[Column[pb.Organization]] = [
        Column("NAME", lambda item: item.name),
        Column("ID", lambda item: item.id),
        Column("CREATED", lambda item: moment(item.created_at_ms)),
        Column("DESCRIPTION", lambda item: item.description, wide=True),
    ]
    show_list(flags_of(ctx).output, "organizations", found, columns)


@organization.command("delete")
@click.argument("name")
@click.pass_context
def delete_organization(ctx: click.Context, name: str) -> None:
    """Delete an organisation that has no apps."""
    with _operator(ctx) as operator:
        request = pb.DeleteOrganizationRequest(organization_name=name)
        answer = operator.call(operator.stub.DeleteOrganization, request)
    show_record(flags_of(ctx).output, answer, {"deleted": name})


@click.group(cls=AdminGroup)
def service_account(**_where: object) -> None:
    """Manage service accounts (operator)."""


@service_account.command()
@click.argument("name")
@click.option("--role", "roles", multiple=True, help="Repeatable, such as ignite.app-developer.")
@click.option("--description", default="")
@click.pass_context
def create(ctx: click.Context, name: str, roles: tuple[str, ...], description: str) -> None:
    """Create a service account of --org; its secret is shown this once."""
    with _operator(ctx) as operator:
        request = pb.CreateServiceAccountRequest(
            organization_name=_organization(operator.session),
            name=name,
            description=description,
            roles=roles,
        )
        answer = operator.call(operator.stub.CreateServiceAccount, request)
    fields = {**_fields(answer.service_account), "secret": answer.secret}
    show_record(flags_of(ctx).output, answer, fields)


@service_account.command("list")
@click.pass_context
def list_accounts(ctx: click.Context) -> None:
    """List service accounts: of --org, or all."""
    flags = flags_of(ctx)
    named = flags.org_name or flags.org or ""
    with _operator(ctx) as operator:

        def ask(start: str) -> pb.ListServiceAccountsResponse:
            request = pb.ListServiceAccountsRequest(organization_name=named, cursor=start)
            return operator.call(operator.stub.ListServiceAccounts, request)

        found = [item for answer in pages(ask) for item in answer.service_accounts]
    columns: list[Column[pb.ServiceAccount]] = [
        Column("ID", lambda item: item.id),
        Column("ORGANISATION", lambda item: item.organization_name),
        Column("NAME", lambda item: item.name),
        Column("ROLES", lambda item: ",".join(item.roles)),
        Column("LAST USED", lambda item: moment(item.last_used_at_ms) or "never"),
        Column("CREATED", lambda item: moment(item.created_at_ms), wide=True),
        Column("DESCRIPTION", lambda item: item.description, wide=True),
    ]
    show_list(flags.output, "serviceAccounts", found, columns)


@service_account.command()
@click.argument("account_id", metavar="ID")
@click.pass_context
def get(ctx: click.Context, account_id: str) -> None:
    """Show a service account."""
    with _operator(ctx) as operator:
        request = pb.GetServiceAccountRequest(service_account_id=account_id)
        answer = operator.call(operator.stub.GetServiceAccount, request)
    show_record(flags_of(ctx).output, answer, _fields(answer.service_account))


@service_account.command()
@click.argument("account_id", metavar="ID")
@click.pass_context
def delete(ctx: click.Context, account_id: str) -> None:
    """Delete a service account."""
    with _operator(ctx) as operator:
        request = pb.DeleteServiceAccountRequest(service_account_id=account_id)
        answer = operator.call(operator.stub.DeleteServiceAccount, request)
    show_record(flags_of(ctx).output, answer, {"deleted": account_id})


@service_account.command()
@click.argument("account_id", metavar="ID")
@click.pass_context
def rotate(ctx: click.Context, account_id: str) -> None:
    """Replace the secret; the old one stops to work at once."""
    with _operator(ctx) as operator:
        request = pb.RotateServiceAccountSecretRequest(service_account_id=account_id)
        answer = operator.call(operator.stub.RotateServiceAccountSecret, request)
    fields = {**_fields(answer.service_account), "secret": answer.secret}
    show_record(flags_of(ctx).output, answer, fields)


@service_account.command("set-roles")
@click.argument("account_id", metavar="ID")
@click.argument("roles", nargs=-1)
@click.pass_context
def set_roles(ctx: click.Context, account_id: str, roles: tuple[str, ...]) -> None:
    """Replace all roles of a service account."""
    with _operator(ctx) as operator:
        request = pb.SetServiceAccountRolesRequest(service_account_id=account_id, roles=roles)
        answer = operator.call(operator.stub.SetServiceAccountRoles, request)
    show_record(flags_of(ctx).output, answer, _fields(answer.service_account))


def _organization(session: Session) -> str:
    named = session.flags.org_name or session.flags.org
    if named:
        return named
    if session.local is not None and session.local.org:
        return session.local.org
    raise WrongUse("no organisation: give --org")


def _fields(account: pb.ServiceAccount) -> dict[str, str]:
    return {
        "id": account.id,
        "organisation": account.organization_name,
        "name": account.name,
        "description": account.description,
        "roles": " ".join(account.roles),
        "last used": moment(account.last_used_at_ms) or "never",
        "created": moment(account.created_at_ms),
    }
