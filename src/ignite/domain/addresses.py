"""Public addresses of apps: the host label in front of the base domain."""

from dataclasses import dataclass

from ignite.domain.apps import AppConfig, AppRef, AppSummary, host_labels

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicAddress:
    """Where the gateway's listener is for the world."""

    scheme: str
    base_domain: str
    port: int

    def url(self, label: str) -> str:
        """Return the URL of one host label."""
        port = "" if self.port == _DEFAULT_PORTS.get(self.scheme) else f":{self.port}"
        return f"{self.scheme}://{label}.{self.base_domain}{port}/"

    def urls(self, ref: AppRef, config: AppConfig | AppSummary) -> tuple[str, ...]:
        """Return one URL a port, in the order of the ports."""
        return tuple(self.url(label) for label in host_labels(ref, config))
