"""The route table: steps, names, and the file it is kept in."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignite.domain.apps import AppRef
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.routes import Route
from ignite.domain.workloads import Endpoint
from ignite.gateway import names
from ignite.gateway.table import (
    RouteTable,
    RouteUpdate,
    Target,
    bare_host,
    dumps,
    load,
    loads,
    ready_replica,
    save,
    tag_of,
    targets_of,
)


def route(name: str = "hello", version: int = 1, **changes: object) -> Route:
    key = str(changes.pop("key", f"acme/{name}@{version}#aa"))
    base = Route(
        key=key,
        app=AppRef(organization=OrganizationName("acme"), name=name),
        organization_id=OrganizationId("org-acme"),
        version=version,
        is_active=True,
        hostnames=(f"{name}-acme.example.com",),
        allow_unauthenticated=False,
        timeout_secs=60,
        max_concurrency=0,
        replicas=(ready_replica(key, "r1", Endpoint(unix_path="/run/r1")),),
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # a test's shorthand


class TestSteps:
    def test_an_update_changes_only_what_it_names(self) -> None:
        one, two = route("one"), route("two")
        table = RouteTable.of(1, [one, two])
        newer = replace(one, timeout_secs=5)
        after = table.apply(RouteUpdate(revision=2, upserts=(newer,)))
        assert after.by_key == {one.key: newer, two.key: two}
        assert table.by_key[one.key] is one
        assert after.revision == 2

    def test_removals_come_before_upserts(self) -> None:
        one = route("one")
        step = RouteUpdate(revision=2, upserts=(one,), removed_keys=(one.key, "unknown"))
        assert RouteTable.of(1, [one]).apply(step).by_key == {one.key: one}

    def test_a_snapshot_replaces_everything(self) -> None:
        table = RouteTable.of(9, [route("one"), route("two")])
        after = table.apply(RouteUpdate(revision=3, is_snapshot=True, upserts=(route("one"),)))
        assert list(after.by_key) == [route("one").key]
        assert after.revision == 3


class TestNames:
    def test_a_host_leads_to_the_active_version(self) -> None:
        old = route(version=1, is_active=False, hostnames=())
        new = route(version=2)
        table = RouteTable.of(1, [new, old])
        assert table.of_host("HELLO-acme.example.com.:8443") is new
        assert table.of_target(Target(app=new.app)) is new
        assert table.of_target(Target(app=new.app, version=1)) is old
        assert table.of_target(Target(app=new.app, version=3)) is None

    def test_a_draft_saved_again_is_the_later_one(self) -> None:
        first = route(version=0, is_active=False, key="acme/hello@0#aa")
        second = route(version=0, is_active=False, key="acme/hello@0#bb")
        table = RouteTable.of(1, [first]).apply(RouteUpdate(revision=2, upserts=(second,)))
        assert table.of_target(Target(app=first.app, version=0)) is second
        again = table.apply(RouteUpdate(revision=3, upserts=(first,)))
        assert again.of_target(Target(app=first.app, version=0)) is first

    def test_a_tag_names_one_draft_alone(self) -> None:
        old = route(version=0, is_active=False, key="acme/hello@0#aa")
        new = route(version=0, is_active=False, key="acme/hello@0#bb")
        only_new = Target(app=new.app, version=0, tag=tag_of(new.key))
        assert RouteTable.of(1, [old]).of_target(only_new) is None
        for routes in ([old, new], [new, old]):
            assert RouteTable.of(1, routes).of_target(only_new) is new
        assert only_new in targets_of(new)
        assert only_new not in targets_of(old)

    def test_a_draft_is_not_envoys_to_choose(self) -> None:
        draft = route(version=0, is_active=False, hostnames=(), key="acme/hello@0#aa")
        assert RouteTable.of(1, [draft]).warm == {}

    @pytest.mark.parametrize(
        ("host", "bare"),
        [
            ("A.example.com", "a.example.com"),
            ("a.example.com:80", "a.example.com"),
            ("a.example.com.:80", "a.example.com"),
            ("[::1]:80", "[::1]"),
            ("", ""),
        ],
    )
    def test_bare_hosts(self, host: str, bare: str) -> None:
        assert bare_host(host) == bare

    @given(
        st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True),
        st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True),
        st.none() | st.integers(0, 2**32 - 1),
        st.just("") | st.text().map(tag_of),
    )
    def test_internal_names_say_exactly_one_target(
        self, app: str, organization: str, version: int | None, tag: str
    ) -> None:
        ref = AppRef(organization=OrganizationName(organization), name=app)
        target = Target(app=ref, version=version, tag="" if version is None else tag)
        assert names.target_of_host(names.target_host(target)) == target

    @pytest.mark.parametrize(
        "host",
        ["", "active", "active.acme", "v.acme.x", "v-1.a.b", "x.a.b", "v0-12.a.b", "v\u0661.a.b"],
    )
    def test_other_hosts_are_no_targets(self, host: str) -> None:
        assert names.target_of_host(host) is None


class TestFile:
    def test_a_saved_table_comes_back(self, tmp_path: Path) -> None:
        table = RouteTable.of(
            7,
            [
                route("one", failure_reason="CrashLoop", failure_message="é\n"),
                route(
                    "two",
                    replicas=(ready_replica("k", "r", Endpoint(host="10.0.0.1", port=80)),),
                    key="k",
                ),
            ],
        )
        save(table, tmp_path / "gateway")
        assert load(tmp_path / "gateway") == table
        file = tmp_path / "gateway" / "routes.json"
        assert file.stat().st_mode & 0o777 == 0o600

    def test_no_file_is_an_empty_table(self, tmp_path: Path) -> None:
        assert load(tmp_path) == RouteTable()

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 2}', '{"format": 1}'])
    def test_a_file_that_is_not_ours_is_an_empty_table(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "routes.json").write_text(text)
        assert load(tmp_path) == RouteTable()
        with pytest.raises(ValueError, match="not a route table"):
            loads(text)

    def test_text_round_trips(self) -> None:
        table = RouteTable.of(1, [route()])
        assert loads(dumps(table)) == table
