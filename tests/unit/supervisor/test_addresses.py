"""Where the server listens, and where it refuses to."""

import socket
from pathlib import Path

import pytest

from ignite.settings import ServerSettings, SettingsError
from ignite.supervisor.addresses import Address, parse, resolve


def free(**changes: object) -> ServerSettings:
    defaults: dict[str, object] = {
        "api_listen_addr": "127.0.0.1:0",
        "admin_listen_addr": "127.0.0.1:0",
        "http_listen_addr": "127.0.0.1:0",
    }
    return ServerSettings.model_validate({**defaults, **changes})


class TestResolve:
    def test_port_zero_takes_free_ports_that_differ(self) -> None:
        found = resolve(free())
        ports = {found.api.port, found.admin.port, found.http.port}
        assert len(ports) == 3
        assert 0 not in ports
        assert found.scheme == "http"

    def test_plain_text_beyond_loopback_is_refused_and_names_the_way_out(self) -> None:
        with pytest.raises(SettingsError, match=r"IGNITE_API_LISTEN_ADDR.*--insecure-plaintext"):
            resolve(free(api_listen_addr="0.0.0.0:0"))

    def test_plain_text_beyond_loopback_can_be_asked_for(self) -> None:
        found = resolve(free(http_listen_addr="0.0.0.0:0", insecure_plaintext=True))
        assert found.http.host == "0.0.0.0"
        assert found.http.for_clients == Address(host="127.0.0.1", port=found.http.port)

    def test_admin_may_leave_loopback_because_it_is_always_mutual_tls(self) -> None:
        assert resolve(free(admin_listen_addr="0.0.0.0:0")).admin.host == "0.0.0.0"

    def test_certificate_and_key_go_together(self) -> None:
        with pytest.raises(SettingsError, match="go together"):
            resolve(free(tls_cert_file=Path("c.pem")))

    def test_with_a_certificate_everything_may_leave_loopback(self) -> None:
        settings = free(
            tls_cert_file=Path("c.pem"), tls_key_file=Path("k.pem"), http_listen_addr="0.0.0.0:0"
        )
        assert resolve(settings).scheme == "https"

    def test_a_taken_port_is_named(self) -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            port = holder.getsockname()[1]
            with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}"):
                resolve(free(http_listen_addr=f"127.0.0.1:{port}"))


class TestParse:
    def test_ipv6_in_brackets(self) -> None:
        assert str(parse("[::1]:80", "X")) == "[::1]:80"

    @pytest.mark.parametrize("text", ["8080", "host", "localhost:", "a:b", "127.0.0.1:65536"])
    def test_what_is_no_address_is_refused_by_name(self, text: str) -> None:
        with pytest.raises(SettingsError, match="IGNITE_X"):
            parse(text, "IGNITE_X")

    def test_a_host_name_is_refused_because_it_may_resolve_anywhere(self) -> None:
        with pytest.raises(SettingsError, match="not an IP address"):
            parse("example.org:80", "IGNITE_X")
