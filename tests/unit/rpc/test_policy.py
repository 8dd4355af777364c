"""Who may call what, as the contract says."""

from ignite.domain.errors import IgniteError, InvalidArgument
from ignite.domain.identity import Scope
from ignite.rpc.policy import policies_of
from ignite.rpc.status import CODES, code_of, details_json, message_of
from ignite.v1 import (  # noqa: F401 - registers the services
    ignite_admin_pb2,
    ignite_build_pb2,
    ignite_compute_pb2,
    ignite_model_pb2,
    ignite_secret_pb2,
)

PACKAGE = "dodil.ignite.v1"
SERVICES = [f"{PACKAGE}.{name}Service" for name in ("Compute", "Build", "Model", "Secret", "Admin")]
PUBLIC = {
    f"/{PACKAGE}.ComputeService/ListPublicCatalog",
    f"/{PACKAGE}.ComputeService/GetPublicCatalogDetail",
    f"/{PACKAGE}.ComputeService/HealthCheck",
    f"/{PACKAGE}.ModelService/ListModels",
    f"/{PACKAGE}.ModelService/GetModel",
}


class TestPolicies:
    def test_public_methods_are_those_of_the_contract(self) -> None:
        policies = policies_of(SERVICES)
        assert {name for name, policy in policies.items() if policy.is_public} == PUBLIC

    def test_every_other_method_asks_for_a_scope(self) -> None:
        policies = policies_of(SERVICES)
        assert {name for name, one in policies.items() if one.scope is None} == PUBLIC

    def test_scopes_follow_the_contract(self) -> None:
        compute = policies_of([f"{PACKAGE}.ComputeService"])
        wanted = {
            "CreateApp": Scope.DEPLOY_APP,
            "StreamCompileLogs": Scope.DEPLOY_APP,
            "TestDraft": Scope.INVOKE_APP,
            "Invoke": Scope.INVOKE_APP,
            "WatchExecution": Scope.GET_EXECUTION,
            "GetAppLogs": Scope.GET_APP,
            "ListCatalog": Scope.LIST_APPS,
            "GetAppVersion": Scope.LIST_APP_VERSIONS,
            "RollbackApp": Scope.ROLLBACK_APP,
        }
        for method, scope in wanted.items():
            assert compute[f"/{PACKAGE}.ComputeService/{method}"].scope is scope

    def test_methods_that_name_an_organization_are_known(self) -> None:
        compute = policies_of([f"{PACKAGE}.ComputeService"])
        assert compute[f"/{PACKAGE}.ComputeService/GetApp"].names_organization
        assert not compute[f"/{PACKAGE}.ComputeService/GetExecution"].names_organization


def _errors(kind: type[IgniteError]) -> list[type[IgniteError]]:
    return [kind, *(one for sub in kind.__subclasses__() for one in _errors(sub))]


class TestStatus:
    def test_every_error_has_a_status(self) -> None:
        for kind in _errors(IgniteError):
            assert code_of(kind("text")) in CODES.values()

    def test_narrow_error_has_the_status_of_its_base(self) -> None:
        class Narrow(InvalidArgument):
            """One of a caller's own."""

        assert code_of(Narrow("text")) is code_of(InvalidArgument("text"))

    def test_details_are_bounded(self) -> None:
        error = InvalidArgument(
            "x" * 5000, field="f" * 5000, details={f"k{n}": "v" * 5000 for n in range(50)}
        )
        assert len(message_of(error)) == 1024
        assert len(str(details_json(error))) < 6000
