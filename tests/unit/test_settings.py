"""Settings: variables, aliases, bounds, and the way to a child."""

import pytest

from ignite.settings import Settings, SettingsError, variables


def test_names_of_the_contract_are_read() -> None:
    settings = Settings.load(
        {
            "IGNITE_API_LISTEN_ADDR": "127.0.0.1:1",
            "IGNITE_COLD_START_BUDGET_SECS": "7",
            "IGNITE__DNS_TLS__BASE_DOMAIN": "example.test",
        }
    )
    assert settings.server.api_listen_addr == "127.0.0.1:1"
    assert settings.gateway.cold_start_budget_secs == 7
    assert settings.dns_tls.base_domain == "example.test"


def test_a_flag_wins_over_a_variable() -> None:
    settings = Settings.load({"IGNITE_DATA_DIR": "/a"}, overrides={"server": {"data_dir": "/b"}})
    assert str(settings.server.data_dir) == "/b"


def test_a_value_out_of_bounds_names_its_variable() -> None:
    with pytest.raises(SettingsError, match="IGNITE__SCALING__REPLICA_CAP"):
        Settings.load({"IGNITE__SCALING__REPLICA_CAP": "0"})


def test_a_misspelt_variable_is_named() -> None:
    with pytest.raises(SettingsError, match="IGNITE__SERVER__TLS_CERTFILE: there is no such"):
        Settings.load({"IGNITE__SERVER__TLS_CERTFILE": "/a"})


def test_variables_of_others_are_none_of_ours() -> None:
    assert Settings.load({"IGNITE_TOKEN": "a", "PATH": "/bin"}) == Settings()


def test_a_child_reads_the_same_tree() -> None:
    settings = Settings.load(
        {
            "IGNITE_DATABASE_URL": "postgresql://u:p@/d",
            "IGNITE__GATEWAY__API_HOSTS": "a.test,b.test",
            "IGNITE__SERVER__INSECURE_PLAINTEXT": "true",
        }
    )
    assert Settings.load(settings.environment()) == settings


def test_secrets_are_not_shown() -> None:
    settings = Settings.load({"IGNITE_DATABASE_URL": "postgresql://u:hunter2@/d"})
    assert "hunter2" not in repr(settings)


def test_every_field_is_described() -> None:
    for group, info in Settings.model_fields.items():
        kind = info.annotation
        assert isinstance(kind, type)
        for field, about in kind.model_fields.items():
            assert about.description, f"{group}.{field}"
    assert len(set(variables().values())) <= len(variables())


@pytest.mark.parametrize("name", ["external_audience", "external_roles_claim"])
def test_another_issuer_needs_its_audience_and_its_roles(name: str) -> None:
    given = {
        "IGNITE__IDENTITY__EXTERNAL_ISSUER": "https://login.example.com",
        "IGNITE__IDENTITY__EXTERNAL_AUDIENCE": "ignite",
        "IGNITE__IDENTITY__EXTERNAL_ROLES_CLAIM": "roles",
    }
    assert Settings.load(given).identity.external_audience == "ignite"
    with pytest.raises(SettingsError, match=f"IGNITE__IDENTITY__{name.upper()}: must be set"):
        Settings.load({**given, f"IGNITE__IDENTITY__{name.upper()}": ""})
