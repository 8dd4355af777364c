"""Values that nobody but their owner may ever read, and where each of them is found after good and
bad calls: in the store that is made for it, encrypted, and nowhere else."""

import base64
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from tests.e2e.server import Server
from tests.limits.apps import App, call, packed, python
from tests.limits.test_callers import account

from ignite.v1 import ignite_admin_pb2 as admin
from ignite.v1.ignite_admin_pb2_grpc import AdminServiceStub

FAILS = """
def handler(payload, ctx):
    raise ValueError("this app fails")
"""


@dataclass
class Story:
    """What was told to the server, and everything that it answered."""

    told: dict[str, str] = field(default_factory=dict)
    answers: list[bytes] = field(default_factory=list)

    def tell(self, kind: str) -> str:
        """Return a fresh value of that kind."""
        return self.told.setdefault(kind, f"canary-{secrets.token_hex(16)}")


@pytest.fixture(scope="module")
def story(server: Server) -> Iterator[Story]:
    """Good and bad calls with values in every place that takes one."""
    own = Story()
    app = App(server, "canaries")
    app.create(env={"CANARY": own.tell("env")})
    app.publish(FAILS)
    logins(server, own)
    slots(server, own)
    calls(server, app, own)
    yield own
    app.delete()


def logins(server: Server, story: Story) -> None:
    """An account that logs in, and one that tries to."""
    with server.admin_channel() as channel:
        stub = AdminServiceStub(channel)
        made = stub.CreateServiceAccount(
            admin.CreateServiceAccountRequest(
                organization_name=server.org, name="canary", roles=["ignite.app-developer"]
            ),
            timeout=20,
        )
        kept = admin.IssueTokenRequest(service_account_id=made.service_account.id)
        story.told["issued token"] = stub.IssueToken(kept, timeout=20).access_token
    story.told["client secret"] = made.secret
    story.told["token"] = token_of(server, made.service_account.id, made.secret).decode()
    story.answers.append(token_of(server, made.service_account.id, story.tell("wrong secret")))


def token_of(server: Server, client: str, secret: str) -> bytes:
    """Log in; return the token, or the refusal."""
    path = "/realms/dodil/protocol/openid-connect/token"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    form = f"grant_type=client_credentials&client_id={client}&client_secret={secret}".encode()
    answer = server.http("POST", path, form, headers=headers, token=None)
    token: str = answer.json().get("access_token", "")
    return token.encode() or answer.body


def slots(server: Server, story: Story) -> None:
    """Secrets that are kept, read, and refused."""
    path = "/v1/ignite/secrets"
    good = {"username": "u", "token": story.tell("git token")}
    bad = {"username": "u:u", "token": story.tell("refused git token")}
    login = {"username": "u", "password": story.tell("registry password"), "serverAddress": "r.io"}
    wrong = {"username": "u", "password": story.tell("refused password"), "serverAddress": "/"}
    for name, value in (
        ("canary-git", {"gitSecret": good}),
        ("canary-bad", {"gitSecret": bad}),
        ("canary-registry", {"registrySecret": login}),
        ("canary-wrong", {"registrySecret": wrong}),
        ("canary/name", {"gitSecret": {"username": "u", "token": story.tell("lost token")}}),
    ):
        answer = server.http("POST", path, {"name": name, "value": value})
        story.answers.append(answer.body)
    # The one call that is made to show them.
    for name, kind in (("canary-git", "git token"), ("canary-registry", "registry password")):
        assert found_in(server.http("GET", f"{path}/{name}").body, story.told[kind])
    story.answers += [
        server.http("GET", path).body,
        server.http("POST", path, b'{"name":"x","value":"' + story.tell("cut").encode()).body,
    ]


def calls(server: Server, app: App, story: Story) -> None:
    """Calls that succeed, are refused, fail in the app, and cannot be read."""
    token = story.told["token"]
    base = f"/v1/ignite/app/{server.org}"
    sent = {"x-canary": story.tell("header")}
    body = story.tell("body").encode()
    query = f"?limit=many&q={story.tell('query')}"
    story.answers += [
        server.http("GET", base, token=token).body,
        server.http("GET", base, token=token[:-5] + "AAAAA").body,
        server.http("GET", f"{base}{query}").body,
        server.http("POST", base, {"name": "x", "env": {"LD_X": story.tell("refused env")}}).body,
        server.http("POST", base, body).body,
        app.http(body, headers=sent, token=token).body,
        app.http(body, headers=sent, token=token + "x").body,
        server.http("POST", f"/{story.tell('path')}", body, host=server.host_of("no-app")).body,
        server.http("POST", f"{base}/{app.name}/invoke", {"body": encoded(body)}).body,
    ]
    for method, fields in (
        ("UpdateAppConfig", {"env": {"A-B": story.tell("refused update")}}),
        ("SaveDraft", {"code": python(b"PK" + story.tell("archive").encode())}),
        ("SaveDraft", {"code": python(packed("x = 1"), build_args={"9": story.tell("argument")})}),
        ("Invoke", {"http": {"headers": {"x y": story.tell("refused header")}}}),
    ):
        names = {"organization_name": server.org, "app_name": app.name}
        with pytest.raises(grpc.RpcError) as caught:
            call(server, method, {**names, **fields})
        story.answers.append((caught.value.details() or "").encode())
    _, other = account(server, "canary-other")
    story.told["other token"] = other
    story.answers.append(server.http("GET", "/v1/ignite/app/globex", token=other).body)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def found_in(text: bytes, value: str) -> bool:
    """Tell whether a value is in a text, as it is or in base64."""
    return value.encode() in text or encoded(value.encode())[:-4].encode() in text


def files_with(folder: Path, value: str) -> set[str]:
    """Return the first parts of the paths of all files that hold a value."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and found_in(path.read_bytes(), value):
            found.add(path.relative_to(folder).parts[0])
    return found


def test_no_answer_repeats_one(story: Story) -> None:
    # What an app is called with and answers is its own; refusals quote names, never values.
    for kind, value in story.told.items():
        for answer in story.answers:
            assert not found_in(answer, value), (kind, answer[:500])


def test_no_log_holds_one(server: Server, story: Story) -> None:
    logs = [*(server.data / "logs").iterdir(), server.data.parent / f"{server.data.name}.out"]
    assert len(logs) >= 6
    for path in logs:
        text = path.read_bytes()
        assert not [kind for kind, value in story.told.items() if found_in(text, value)], path


def test_secrets_are_nowhere_in_the_data_and_what_is_no_secret_is_found(
    server: Server, story: Story
) -> None:
    """The search reads everything that is kept, the write-ahead log of Postgres as well."""
    found = {kind: files_with(server.data, value) for kind, value in story.told.items()}
    assert "postgres" in found.pop("env")
    # What was refused, and what only passed through, is kept nowhere either.
    assert {kind: places for kind, places in found.items() if places} == {}


def test_the_connection_file_holds_only_what_is_meant_for_the_developer(server: Server) -> None:
    path = server.data / "connection.json"
    kept = {"grpc", "http", "admin", "base_domain", "org", "token", "client_id", "client_secret"}
    assert set(json.loads(path.read_text())) == {*kept, "ca"}
    assert path.stat().st_mode & 0o077 == 0
