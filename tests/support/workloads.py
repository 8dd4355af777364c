"""Workload specs for tests."""

from dataclasses import replace

from ignite.domain.apps import AppRef
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.runtimes import Language, Runtime
from ignite.domain.workloads import WorkloadRef, WorkloadSpec


def spec_of(replicas: int = 1, *, app: str = "hello", version: int = 1) -> WorkloadSpec:
    """Return a spec; equal arguments give equal ones."""
    return WorkloadSpec(
        ref=WorkloadRef(
            app=AppRef(organization=OrganizationName("acme"), name=app),
            app_id=7,
            version=version,
            artifact="a" * 64,
        ),
        organization_id=OrganizationId("01ACME"),
        runtime=Runtime(language=Language.PYTHON),
        env={"GREETING": "hello"},
        memory_mb=256,
        cpu_millicores=250,
        timeout_secs=60,
        max_concurrency=16,
        health_path="/healthz",
        port=80,
        replicas=replicas,
    )


def with_env(spec: WorkloadSpec, **env: str) -> WorkloadSpec:
    """Return the spec with other variables, which running replicas cannot take over."""
    return replace(spec, env=env)
