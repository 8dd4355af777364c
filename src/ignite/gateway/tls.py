"""TLS of the public listener, with a certificate that may be renewed while it serves.

Envoy reads files that a listener names once. Named in a secret, which it gets from a file as well,
they are watched: whatever is moved into their folder makes Envoy read them again. New connections
get the new certificate then, and the listener and its connections stay.
"""

import json

from ignite.gateway.authorization import Config
from ignite.gateway.shape import Shape

_TYPES = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_NAME = "server"


def write_secret(shape: Shape) -> None:
    """Write the file that the listener of `shape` names; before Envoy hears of the listener."""
    if shape.tls_secret_file is None or shape.tls_cert_file is None:
        return
    fresh = shape.tls_secret_file.with_suffix(".new")
    fresh.write_text(json.dumps({"resources": [_secret(shape)]}))
    fresh.replace(shape.tls_secret_file)


def transport_socket(shape: Shape) -> Config:
    """Return what makes a listener speak TLS."""
    source = {
        "name": _NAME,
        "sds_config": {
            "path_config_source": {"path": str(shape.tls_secret_file)},
            "resource_api_version": "V3",
        },
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPES}.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificate_sds_secret_configs": [source],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            },
        },
    }


def _secret(shape: Shape) -> Config:
    assert shape.tls_cert_file is not None
    return {
        "@type": f"{_TYPES}.Secret",
        "name": _NAME,
        "tls_certificate": {
            "certificate_chain": {"filename": str(shape.tls_cert_file)},
            "private_key": {"filename": str(shape.tls_key_file)},
            "watched_directory": {"path": str(shape.tls_cert_file.parent)},
        },
    }
