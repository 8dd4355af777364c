"""Answers that are made once and sent as bytes."""

import gc
import weakref
from dataclasses import replace
from datetime import UTC, datetime

from ignite.domain.addresses import PublicAddress
from ignite.domain.apps import (
    App,
    AppConfig,
    AppRef,
    AppSummary,
    DeploymentState,
    ResourceTier,
)
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.versions import ShownApp
from ignite.services.compute.convert.apps import AppAnswers
from ignite.v1 import ignite_compute_pb2 as pb

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ADDRESS = PublicAddress(scheme="http", base_domain="apps.test", port=80)


def ref(name: str) -> AppRef:
    return AppRef(organization=OrganizationName("acme"), name=name)


def summary(name: str) -> AppSummary:
    return AppSummary(
        ref=ref(name),
        description=f"the {name}",
        tier=ResourceTier.SMALL,
        ports=(),
        state=DeploymentState.CREATED,
        active_version=0,
        created_at=NOW,
        updated_at=NOW,
    )


def shown(name: str) -> ShownApp:
    app = App(
        id=1,
        ref=ref(name),
        organization_id=OrganizationId("01ACME"),
        config=AppConfig(env={"A": name}),
        state=DeploymentState.CREATED,
        active_version=0,
        target_version=0,
        generation=1,
        observed_generation=1,
        error="",
        error_reason="",
        created_at=NOW,
        updated_at=NOW,
    )
    return ShownApp(app=app, version=None)


def test_page_holds_its_apps_in_order_and_the_cursor() -> None:
    answers, apps = AppAnswers(ADDRESS), [summary(name) for name in ("b", "a", "c")]
    for cursor in ("", "next"):
        page = pb.ListAppsResponse.FromString(answers.page(apps, cursor))
        assert [app.name for app in page.apps] == ["b", "a", "c"]
        assert page.apps[1].description == "the a"
        assert page.next_cursor == cursor


def test_page_without_apps_is_empty() -> None:
    assert pb.ListAppsResponse.FromString(AppAnswers(ADDRESS).page([], "")) == pb.ListAppsResponse()


def test_record_is_of_the_app_that_was_asked_for() -> None:
    answers, first, second = AppAnswers(ADDRESS), shown("a"), shown("b")
    for app, name in ((first, "a"), (second, "b"), (first, "a")):
        record = pb.GetAppResponse.FromString(answers.record(app)).app
        assert (record.name, dict(record.env)) == (name, {"A": name})


def test_record_is_kept_as_long_as_its_app_is() -> None:
    answers, app = AppAnswers(ADDRESS), shown("a")
    assert answers.record(app) is answers.record(app)
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None


def test_entries_with_long_descriptions_are_made_anew() -> None:
    answers = AppAnswers(ADDRESS)
    small, large = summary("a"), replace(summary("b"), description="d" * 513)
    for _ in range(2):
        page = pb.ListAppsResponse.FromString(answers.page([small, large], ""))
        assert [len(app.description) for app in page.apps] == [5, 513]
    assert answers._entry.cache_info().currsize == 1
