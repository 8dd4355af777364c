"""The issuer that our tokens name."""

from typing import Any

import pytest

from ignite.identity.issuer import issuer_url
from ignite.settings import DnsTlsSettings, IdentitySettings, ServerSettings


class TestIssuerUrl:
    @pytest.mark.parametrize(
        ("identity", "dns", "server", "url"),
        [
            ({}, {}, {}, "http://localhost:8080/realms/dodil"),
            (
                {"realm": "x"},
                {},
                {"http_listen_addr": "127.0.0.1:9000"},
                "http://localhost:9000/realms/x",
            ),
            ({}, {}, {"http_listen_addr": "127.0.0.1:0"}, "http://localhost/realms/dodil"),
            (
                {},
                {"base_domain": "a.b", "public_port": 443},
                {"tls_cert_file": "c"},
                "https://a.b/realms/dodil",
            ),
            ({}, {"base_domain": "a.b"}, {"tls_cert_file": "c"}, "https://a.b:8443/realms/dodil"),
            ({"issuer": "https://id.example"}, {}, {}, "https://id.example"),
        ],
    )
    def test_url(self, identity: Any, dns: Any, server: Any, url: str) -> None:
        made = issuer_url(
            IdentitySettings(**identity), DnsTlsSettings(**dns), ServerSettings(**server)
        )
        assert made == url
