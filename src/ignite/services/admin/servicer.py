"""AdminService over gRPC. The caller is an operator with a client certificate; there is no bearer.

Methods that this class does not have are answered UNIMPLEMENTED by the server.
"""
# ruff: noqa: N802, ARG002 - methods have the contract's names and arguments

from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from ignite.domain.errors import FailedPrecondition, InvalidArgument
from ignite.domain.identity import ROLES
from ignite.ports.identity import SigningKeys
from ignite.ports.pools import WarmPools
from ignite.rpc.pagination import decode_cursor, page_limit, page_of
from ignite.services.admin import convert
from ignite.services.admin.accounts import ServiceAccounts
from ignite.services.admin.cluster import Cluster
from ignite.services.admin.organizations import Organizations
from ignite.services.admin.tokens import OperatorTokens
from ignite.settings import LimitSettings
from ignite.v1 import ignite_admin_pb2 as pb
from ignite.v1 import ignite_admin_pb2_grpc as pb_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminUseCases:
    """What the service can do, made once by bootstrap."""

    organizations: Organizations
    accounts: ServiceAccounts
    tokens: OperatorTokens
    keys: SigningKeys
    cluster: Cluster
    pools: WarmPools | None = None


class AdminServicer(pb_grpc.AdminServiceServicer):
    """Serves AdminService."""

    def __init__(self, use_cases: AdminUseCases, limits: LimitSettings) -> None:
        self._organizations = use_cases.organizations
        self._accounts = use_cases.accounts
        self._tokens = use_cases.tokens
        self._keys = use_cases.keys
        self._cluster = use_cases.cluster
        self._pools = use_cases.pools
        self._limits = limits

    async def GetClusterHealth(
        self, request: pb.GetClusterHealthRequest, context: Context
    ) -> pb.GetClusterHealthResponse:
        return convert.health(await self._cluster.health())

    async def CreateOrganization(
        self, request: pb.CreateOrganizationRequest, context: Context
    ) -> pb.CreateOrganizationResponse:
        record = await self._organizations.create(request.name, request.description)
        return pb.CreateOrganizationResponse(organization=convert.organization(record))

    async def GetOrganization(
        self, request: pb.GetOrganizationRequest, context: Context
    ) -> pb.GetOrganizationResponse:
        record = await self._organizations.get(request.organization_name)
        return pb.GetOrganizationResponse(organization=convert.organization(record))

    async def ListOrganizations(
        self, request: pb.ListOrganizationsRequest, context: Context
    ) -> pb.ListOrganizationsResponse:
        limit = page_limit(request.limit, self._limits)
        after = _after("organizations", request.cursor)
        rows = await self._organizations.list(after=after, limit=limit + 1)
        page, cursor = page_of("organizations", rows, limit, lambda row: [row.organization.name])
        return pb.ListOrganizationsResponse(
            organizations=[convert.organization(row) for row in page], next_cursor=cursor
        )

    async def DeleteOrganization(
        self, request: pb.DeleteOrganizationRequest, context: Context
    ) -> pb.DeleteOrganizationResponse:
        await self._organizations.delete(request.organization_name)
        return pb.DeleteOrganizationResponse()

    async def CreateServiceAccount(
        self, request: pb.CreateServiceAccountRequest, context: Context
    ) -> pb.CreateServiceAccountResponse:
        made = await self._accounts.create(
            request.organization_name, request.name, request.description, request.roles
        )
        return pb.CreateServiceAccountResponse(
            service_account=convert.service_account(made.account), secret=made.secret
        )

    async def GetServiceAccount(
        self, request: pb.GetServiceAccountRequest, context: Context
    ) -> pb.GetServiceAccountResponse:
        account = await self._accounts.get(request.service_account_id)
        return pb.GetServiceAccountResponse(service_account=convert.service_account(account))

    async def ListServiceAccounts(
        self, request: pb.ListServiceAccountsRequest, context: Context
    ) -> pb.ListServiceAccountsResponse:
        limit = page_limit(request.limit, self._limits)
        after = _after("service_accounts", request.cursor)
        rows = await self._accounts.list(request.organization_name, after=after, limit=limit + 1)
        page, cursor = page_of("service_accounts", rows, limit, lambda row: [row.id])
        return pb.ListServiceAccountsResponse(
            service_accounts=[convert.service_account(row) for row in page], next_cursor=cursor
        )

    async def DeleteServiceAccount(
        self, request: pb.DeleteServiceAccountRequest, context: Context
    ) -> pb.DeleteServiceAccountResponse:
        await self._accounts.delete(request.service_account_id)
        return pb.DeleteServiceAccountResponse()

    async def RotateServiceAccountSecret(
        self, request: pb.RotateServiceAccountSecretRequest, context: Context
    ) -> pb.RotateServiceAccountSecretResponse:
        made = await self._accounts.rotate_secret(request.service_account_id)
        return pb.RotateServiceAccountSecretResponse(
            service_account=convert.service_account(made.account), secret=made.secret
        )

    async def SetServiceAccountRoles(
        self, request: pb.SetServiceAccountRolesRequest, context: Context
    ) -> pb.SetServiceAccountRolesResponse:
        account = await self._accounts.set_roles(request.service_account_id, request.roles)
        return pb.SetServiceAccountRolesResponse(service_account=convert.service_account(account))

    async def ListRoles(
        self, request: pb.ListRolesRequest, context: Context
    ) -> pb.ListRolesResponse:
        limit = page_limit(request.limit, self._limits)
        after = _after("roles", request.cursor)
        rows = sorted((name, scopes) for name, scopes in ROLES.items() if name > after)
        page, cursor = page_of("roles", rows[: limit + 1], limit, lambda row: [row[0]])
        return pb.ListRolesResponse(
            roles=[convert.role(name, scopes) for name, scopes in page], next_cursor=cursor
        )

    async def RotateSigningKey(
        self, request: pb.RotateSigningKeyRequest, context: Context
    ) -> pb.RotateSigningKeyResponse:
        return convert.rotation(await self._keys.rotate())

    async def ListWarmPools(
        self, request: pb.ListWarmPoolsRequest, context: Context
    ) -> pb.ListWarmPoolsResponse:
        limit = page_limit(request.limit, self._limits)
        after = _after("warm_pools", request.cursor)
        pools = [] if self._pools is None else await self._pools.list()
        rows = sorted(
            ((convert.pool_name(pool), pool) for pool in pools if convert.pool_name(pool) > after),
            key=lambda row: row[0],
        )
        page, cursor = page_of("warm_pools", rows[: limit + 1], limit, lambda row: [row[0]])
        return pb.ListWarmPoolsResponse(
            pools=[convert.warm_pool(pool) for _, pool in page], next_cursor=cursor
        )

    async def SetWarmPoolSize(
        self, request: pb.SetWarmPoolSizeRequest, context: Context
    ) -> pb.SetWarmPoolSizeResponse:
        if self._pools is None:
            raise FailedPrecondition("this backend keeps no warm pools", reason="NoWarmPools")
        pool = await self._pools.set_size(convert.pooled_runtime(request), request.size)
        return pb.SetWarmPoolSizeResponse(pool=convert.warm_pool(pool))

    async def IssueToken(
        self, request: pb.IssueTokenRequest, context: Context
    ) -> pb.IssueTokenResponse:
        match request.WhichOneof("subject"):
            case "service_account_id":
                token = await self._tokens.for_account(request.service_account_id, request.ttl_secs)
            case "development":
                who = request.development
                token = await self._tokens.for_development(
                    who.organization_name, who.name, who.roles, request.ttl_secs
                )
            case _:
                raise InvalidArgument("must be given", field="subject")
        return convert.token(token)


def _after(kind: str, cursor: str) -> str:
    parts = decode_cursor(kind, cursor, [str])
    return str(parts[0]) if parts else ""
