"""Public addresses."""

import pytest

from ignite.domain.addresses import PublicAddress
from ignite.domain.apps import AppConfig, AppRef, check_app_name
from ignite.domain.errors import InvalidArgument
from ignite.domain.identity import OrganizationName

WEB = AppRef(organization=OrganizationName("acme"), name="my.web")


@pytest.mark.parametrize(
    ("scheme", "port", "url"),
    [
        ("http", 80, "http://my-dot-web-acme.apps.test/"),
        ("https", 443, "https://my-dot-web-acme.apps.test/"),
        ("http", 443, "http://my-dot-web-acme.apps.test:443/"),
        ("http", 8080, "http://my-dot-web-acme.apps.test:8080/"),
    ],
)
def test_usual_port_is_left_out(scheme: str, port: int, url: str) -> None:
    address = PublicAddress(scheme=scheme, base_domain="apps.test", port=port)
    assert address.urls(WEB, AppConfig()) == (url,)


def test_one_url_a_port_in_order() -> None:
    address = PublicAddress(scheme="https", base_domain="apps.test", port=443)
    assert address.urls(WEB, AppConfig(ports=(9000, 80))) == (
        "https://my-dot-web-acme-9000.apps.test/",
        "https://my-dot-web-acme.apps.test/",
    )


@pytest.mark.parametrize("name", ["a", "a1", "my.app", "my-app", "0a", "a-b.c"])
def test_names_that_fit_a_label_are_taken(name: str) -> None:
    check_app_name(name)


@pytest.mark.parametrize(
    "name", ["", "A", "-a", "a-", ".a", "a.", "a..b", "a_b", "a b", "ä", "a\n", "a\0", "a/b"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="name"):
        check_app_name(name)
