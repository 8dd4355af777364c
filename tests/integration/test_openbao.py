"""The secret store of a real OpenBao: walls between organisations, crashes, locked doors."""

import asyncio
import os
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import hvac
import pytest
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest
from pydantic import SecretStr
from tests.support.openbao import development_server, set_up, vault_settings
from tests.support.servers import serving

from ignite.domain.errors import Unavailable
from ignite.domain.identity import OrganizationName
from ignite.domain.secrets import GitSecret
from ignite.layout import Layout
from ignite.secretstores.client import VaultClient
from ignite.secretstores.embedded import EmbeddedOpenBao, UnsealKeyMissing
from ignite.secretstores.policies import slot_path
from ignite.secretstores.probe import serves
from ignite.secretstores.vault import VaultPlatformSecrets, VaultSecretStore
from ignite.settings import LogSettings, VaultSettings

CANARY = "canary-1f0e8a7c"
GIT = GitSecret(username="me", token=CANARY)
ACME, RIVAL = OrganizationName("acme"), OrganizationName("acme-rival")


@pytest.fixture
async def client(openbao_server: VaultSettings) -> AsyncIterator[VaultClient]:
    client = VaultClient(openbao_server)
    yield client
    await client.close()


@pytest.fixture
def data(short_folder: Path) -> Path:
    return short_folder / "data"


async def until_available(work: Callable[[], Awaitable[Any]]) -> tuple[Any, list[Unavailable]]:
    """Call `work` until it does not raise Unavailable; return its result and what it raised."""
    raised: list[Unavailable] = []
    async with asyncio.timeout(60):
        while True:
            try:
                return await work(), raised
            except Unavailable as error:
                raised.append(error)
                await asyncio.sleep(0.05)


async def test_token_of_one_organisation_is_forbidden_on_the_paths_of_another(
    client: VaultClient,
) -> None:
    store = VaultSecretStore(client)
    await store.put(ACME, "slot", GIT)
    await store.put(RIVAL, "slot", GIT)

    def attempts(path: str) -> Callable[[hvac.Client], list[str]]:
        def work(as_acme: hvac.Client) -> list[str]:
            kv = as_acme.secrets.kv.v2
            folder = path.rsplit("/", 1)[0]
            calls: list[Callable[[], Any]] = [
                lambda: kv.read_secret_version(path, raise_on_deleted_version=True),
                lambda: kv.read_secret_metadata(path),
                lambda: kv.create_or_update_secret(path, {"a": "b"}),
                lambda: kv.list_secrets(folder),
                lambda: kv.delete_metadata_and_all_versions(path),
                lambda: as_acme.auth.token.create(policies=["ignite-org-acme-rival"]),
                lambda: as_acme.sys.read_acl_policy("ignite-org-acme"),
                lambda: as_acme.sys.create_or_update_acl_policy("ignite-org-acme", "x"),
            ]
            return [_outcome(call) for call in calls]

        return work

    for path in (slot_path(RIVAL, "slot"), "platform/signing-keys", "orgs/acme/slots-of-mine/x"):
        assert set(await client.as_organization(ACME, attempts(path))) == {"forbidden"}
    own = await client.as_organization(
        ACME,
        lambda as_acme: _outcome(
            lambda: as_acme.secrets.kv.v2.read_secret_version(
                slot_path(ACME, "slot"), raise_on_deleted_version=True
            )
        ),
    )
    assert own == "done"


def _outcome(call: Callable[[], Any]) -> str:
    try:
        call()
    except Forbidden:
        return "forbidden"
    except InvalidRequest as error:
        return "forbidden" if "not allowed" in str(error) or "polic" in str(error) else str(error)
    return "done"


async def test_platform_token_reads_no_slot_and_reaches_no_wider_right(client: VaultClient) -> None:
    await VaultSecretStore(client).put(ACME, "slot", GIT)

    def work(platform: hvac.Client) -> list[str]:
        kv = platform.secrets.kv.v2
        path = slot_path(ACME, "slot")
        calls: list[Callable[[], Any]] = [
            lambda: kv.read_secret_version(path, raise_on_deleted_version=True),
            lambda: kv.list_secrets("orgs/acme/slots"),
            lambda: kv.list_secrets("orgs"),
            lambda: platform.sys.create_or_update_acl_policy("ignite-platform", "x"),
            lambda: platform.auth.token.create(role_name="ignite-org", policies=["root"]),
            lambda: platform.auth.token.create(
                role_name="ignite-org", policies=["ignite-platform"]
            ),
            lambda: platform.sys.seal(),
            lambda: platform.read("sys/raw/core/master"),
        ]
        return [_outcome(call) for call in calls]

    assert set(await client.as_platform(work)) == {"forbidden"}


async def test_overwritten_value_cannot_be_read_any_more(
    client: VaultClient, organization: OrganizationName
) -> None:
    store = VaultSecretStore(client)
    await store.put(organization, "slot", GitSecret(username="u", token="old"))
    await store.put(organization, "slot", GitSecret(username="u", token="new"))

    def read_first(as_org: hvac.Client) -> Any:
        return as_org.secrets.kv.v2.read_secret_version(
            slot_path(organization, "slot"), version=1, raise_on_deleted_version=True
        )

    with pytest.raises(Unavailable) as raised:
        await client.as_organization(organization, read_first)
    assert isinstance(raised.value.__cause__, InvalidPath)


async def test_writer_that_died_between_its_two_writes_leaves_the_old_slot_whole(
    client: VaultClient, organization: OrganizationName
) -> None:
    store = VaultSecretStore(client)
    slot = await store.put(organization, "slot", GIT)

    def first_half(as_org: hvac.Client) -> None:
        for path in (slot_path(organization, "slot"), slot_path(organization, "never")):
            as_org.secrets.kv.v2.update_metadata(
                path, custom_metadata={"type": "registry_secret", "type-of-version": "2"}
            )

    await client.as_organization(organization, first_half)
    assert await store.list(organization) == (slot,)
    assert (await store.get(organization, "slot"))[1] == GIT


async def test_refused_tokens_are_replaced(
    openbao_server: VaultSettings, organization: OrganizationName
) -> None:
    client = VaultClient(openbao_server)
    store = VaultSecretStore(client)
    try:
        await store.put(organization, "slot", GIT)
        for holder in (client._platform, client._organizations[organization]):
            assert holder is not None
            object.__setattr__(holder, "text", "s.forgedforgedforgedforged")
        assert (await store.get(organization, "slot"))[1] == GIT
    finally:
        await client.close()


async def test_wrong_credentials_are_unavailable_and_say_nothing(
    openbao_server: VaultSettings,
) -> None:
    wrong = openbao_server.model_copy(update={"secret_id": SecretStr(CANARY)})
    client = VaultClient(wrong)
    try:
        with pytest.raises(Unavailable, match="the secret store refuses") as raised:
            await VaultSecretStore(client).list(ACME)
        assert raised.value.reason == "SecretStoreRefused"
        assert CANARY not in f"{raised.value} {raised.value.details} {wrong!r}"
    finally:
        await client.close()


async def test_committed_slot_survives_kill_and_the_client_recovers_by_itself(data: Path) -> None:
    with serving("openbao", data) as server:
        client = VaultClient(vault_settings(server))
        store = VaultSecretStore(client)
        slot = await store.put(ACME, "slot", GIT)
        os.kill(server["pid"], signal.SIGKILL)
        found, raised = await until_available(lambda: store.get(ACME, "slot"))
        assert found == (slot, GIT)
        assert raised
        assert all(error.reason.startswith("SecretStore") for error in raised)
        await client.close()


async def test_everything_survives_kill_of_the_supervisor(data: Path) -> None:
    with serving("openbao", data) as server:
        client = VaultClient(vault_settings(server))
        slot = await VaultSecretStore(client).put(ACME, "slot", GIT)
        await client.close()
        os.kill(server["supervisor"], signal.SIGKILL)
    with serving("openbao", data) as server:
        client = VaultClient(vault_settings(server))
        assert await VaultSecretStore(client).get(ACME, "slot") == (slot, GIT)
        await client.close()


async def test_store_that_stands_still_is_unavailable_in_time_and_then_answers(data: Path) -> None:
    with serving("openbao", data) as server:
        settings = vault_settings(server).model_copy(update={"timeout_secs": 0.5})
        client = VaultClient(settings)
        store = VaultSecretStore(client)
        slot, _ = await until_available(lambda: store.put(ACME, "slot", GIT))
        os.kill(server["pid"], signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(Unavailable) as raised:
                await store.get(ACME, "slot")
            assert raised.value.reason == "SecretStoreTimeout"
            assert time.monotonic() - began < 3
        finally:
            os.kill(server["pid"], signal.SIGCONT)
        found, _ = await until_available(lambda: store.get(ACME, "slot"))
        assert found == (slot, GIT)
        await client.close()


async def test_sealed_store_is_unavailable_until_it_is_unsealed() -> None:
    with development_server() as (address, root_token, key):
        client = VaultClient(set_up(address, root_token))
        store = VaultSecretStore(client)
        await store.put(ACME, "slot", GIT)
        operator = hvac.Client(url=address, token=root_token)
        operator.sys.seal()
        with pytest.raises(Unavailable) as raised:
            await store.get(ACME, "slot")
        assert raised.value.reason == "SecretStoreSealed"
        operator.sys.submit_unseal_key(key)
        found, _ = await until_available(lambda: store.get(ACME, "slot"))
        assert found[1] == GIT
        await client.close()


async def test_disk_holds_no_value_and_no_root_token_and_closed_files_only(data: Path) -> None:
    with serving("openbao", data) as server:
        client = VaultClient(vault_settings(server))
        await VaultSecretStore(client).put(ACME, "slot", GIT)
        await VaultPlatformSecrets(client).put("keys", {"private": CANARY}, expected=0)
        await client.close()
    files = files_below(data)
    assert any(path.name == "vault.db" for path in files)
    for path in files:
        content = path.read_bytes()
        assert CANARY.encode() not in content, path
        assert not re.search(rb"\b(?:hvs|s)\.[A-Za-z0-9]{24}\b", content), path
    for path in (data / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        if path.name != "openbao-unseal":
            assert path.read_bytes() not in (data / "openbao/config.json").read_bytes()


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_only_the_unix_socket_serves(data: Path) -> None:
    with serving("openbao", data) as server:
        ports = listening_ports(server["pid"])
        assert ports
        for port in ports:
            with pytest.raises(OSError, match=r"reset|refused|closed"):
                ask(port)
        client = VaultClient(vault_settings(server))
        assert await VaultSecretStore(client).list(ACME) == ()
        await client.close()
        assert os.stat(server["address"].removeprefix("unix://")).st_mode & 0o077 == 0


async def test_who_is_not_let_in_is_not_served(data: Path) -> None:
    assert not await serves(data / "nothing", VaultSettings())
    with serving("openbao", data) as server:
        path = Path(server["address"].removeprefix("unix://"))
        good = vault_settings(server)
        assert await serves(path, good)
        wrong = {"secret_id": SecretStr("wrong")}, {"mount": "elsewhere"}
        for change in wrong:
            assert not await serves(path, good.model_copy(update=change))


def ask(port: int) -> None:
    """Ask for the health over plain HTTP; raise OSError when nobody answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
        stream.sendall(b"GET /v1/sys/health HTTP/1.1\r\nHost: x\r\n\r\n")
        if not stream.recv(100).startswith(b"HTTP/1.1 200"):
            raise OSError("closed")


def listening_ports(pid: int) -> list[int]:
    listing = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    return [
        int(line.split()[3].rsplit(":", 1)[1])
        for line in listing.splitlines()
        if f"pid={pid}," in line
    ]


async def test_interrupted_first_start_is_begun_anew(data: Path) -> None:
    layout = Layout(data=data)
    with serving("openbao", data):
        pass
    key = (layout.keys / "openbao-unseal").read_bytes()
    (layout.openbao / "initializing").touch()
    (layout.openbao / "raft/vault.db").write_bytes(b"half")
    with serving("openbao", data) as server:
        client = VaultClient(vault_settings(server))
        await VaultSecretStore(client).put(ACME, "slot", GIT)
        await client.close()
    assert not (layout.openbao / "initializing").exists()
    assert (layout.keys / "openbao-unseal").read_bytes() == key


async def test_data_without_its_key_is_refused_by_name(data: Path) -> None:
    openbao = EmbeddedOpenBao(Layout(data=data), LogSettings(), None)
    (data / "openbao/raft").mkdir(parents=True)
    with pytest.raises(UnsealKeyMissing, match="openbao-unseal is gone"):
        await openbao.prepare()
