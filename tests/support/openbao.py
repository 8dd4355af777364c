"""Fixtures: one real OpenBao a worker. Tests keep apart by organisations of their own."""

import itertools
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import hvac
import pytest
from pydantic import SecretStr
from tests.support.docker import docker_answers
from tests.support.servers import embedded

from ignite.domain.identity import OrganizationName
from ignite.secretstores import policies
from ignite.secretstores.embedded import binary
from ignite.settings import VaultSettings

_numbers = itertools.count(1)


def vault_settings(answer: dict[str, Any]) -> VaultSettings:
    """Return the settings for a store that `servers.serving` started."""
    return VaultSettings(
        address=answer["address"],
        role_id=answer["role_id"],
        secret_id=SecretStr(answer["secret_id"]),
        timeout_secs=10,
    )


@pytest.fixture(scope="session")
def openbao_server() -> Iterator[VaultSettings]:
    """Settings that reach one embedded OpenBao a worker."""
    with embedded("openbao") as answer:
        yield vault_settings(answer)


@pytest.fixture(scope="session")
def external_openbao() -> Iterator[VaultSettings]:
    """Settings that reach an OpenBao of somebody else over TCP, set up as documented."""
    with development_server() as (address, root_token, _):
        yield set_up(address, root_token)


@contextmanager
def development_server() -> Iterator[tuple[str, str, str]]:
    """Run a server in memory; yield its address, root token and unseal key."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    root_token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            [
                str(binary()),
                "server",
                "-dev",
                "-dev-no-store-token",
                f"-dev-root-token-id={root_token}",
                f"-dev-listen-address={listen}",
            ],
            env={"HOME": home},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout
        try:
            key = ""
            for line in process.stdout:
                if line.startswith("Unseal Key:"):
                    key = line.split()[-1]
                if "Development mode should NOT be used" in line:
                    break
            with ThreadPoolExecutor(1) as drain:
                drain.submit(process.stdout.read)
                try:
                    yield f"http://{listen}", root_token, key
                finally:
                    process.kill()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture
def organization() -> OrganizationName:
    """An organisation that no other test of this worker uses."""
    return OrganizationName(f"org-{next(_numbers)}")


@pytest.fixture(scope="session")
def vault_container() -> Iterator[VaultSettings]:
    """Settings that reach a HashiCorp Vault in a container, set up as the documentation says."""
    if not docker_answers():
        pytest.skip("needs Docker for a Vault container")
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    container = (
        DockerContainer("hashicorp/vault:1.20")
        .with_env("VAULT_DEV_ROOT_TOKEN_ID", "root")
        .with_exposed_ports(8200)
    )
    with container:
        wait_for_logs(container, "Development mode should NOT be used", timeout=60)
        address = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(8200)}"
        yield set_up(address, "root")


def set_up(address: str, root_token: str) -> VaultSettings:
    """Do by hand what `docs/operations/secrets.md` asks of an external store's operator."""
    client = hvac.Client(url=address, token=root_token)
    client.sys.create_or_update_acl_policy(
        policies.PLATFORM_POLICY, policies.platform_policy("secret")
    )
    client.write_data(f"auth/token/roles/{policies.TOKEN_ROLE}", data=policies.token_role())
    client.sys.enable_auth_method("approle")
    client.write_data(
        "auth/approle/role/ignite", data={"token_policies": [policies.PLATFORM_POLICY]}
    )
    role = client.read("auth/approle/role/ignite/role-id")["data"]["role_id"]
    secret = client.write_data("auth/approle/role/ignite/secret-id")["data"]["secret_id"]
    return VaultSettings(
        address=address, role_id=role, secret_id=SecretStr(secret), timeout_secs=10
    )
