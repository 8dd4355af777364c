"""Envoy's configuration from plain data to messages, and messages as resources on the wire.

A resource's version is a hash of its bytes: after a restart of the gateway Envoy is told nothing
that it knows already.
"""

import hashlib
from dataclasses import dataclass, field

from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2 as _cel
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2 as _buffer
from envoy.extensions.filters.http.cors.v3 import cors_pb2 as _cors
from envoy.extensions.filters.http.grpc_json_transcoder.v3 import transcoder_pb2 as _transcoder
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as _jwt
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as _rbac
from envoy.extensions.filters.http.router.v3 import router_pb2 as _router
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2 as _inspector
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as _manager,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    header_mutation_pb2 as _early,
)
from envoy.extensions.load_balancing_policies.least_request.v3 import (
    least_request_pb2 as _least_request,
)
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2 as _previous_hosts
from envoy.extensions.retry.priority.previous_priorities.v3 import (
    previous_priorities_config_pb2 as _previous_priorities,
)
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2 as _tls
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as _protocol
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from ignite.gateway.authorization import Config

REGISTERED = (
    _buffer,
    _cel,
    _cors,
    _early,
    _inspector,
    _jwt,
    _least_request,
    _manager,
    _previous_hosts,
    _previous_priorities,
    _protocol,
    _rbac,
    _router,
    _tls,
    _transcoder,
)
"""Modules whose types the configurations name inside `Any`; importing them makes them known."""

TYPE = "type.googleapis.com/"
CDS = f"{TYPE}envoy.config.cluster.v3.Cluster"
ECDS = f"{TYPE}envoy.config.core.v3.TypedExtensionConfig"
EDS = f"{TYPE}envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = f"{TYPE}envoy.config.listener.v3.Listener"
RDS = f"{TYPE}envoy.config.route.v3.RouteConfiguration"
VHDS = f"{TYPE}envoy.config.route.v3.VirtualHost"


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it goes on the wire."""

    name: str
    version: str
    body: AnyMessage = field(compare=False, repr=False)


def parsed(message: Message, config: Config) -> Resource:
    """Return the resource that `config` describes. It costs a millisecond: see `forms`."""
    ParseDict(config, message)
    return packed(str(config.get("name") or config["cluster_name"]), message)


def packed(name: str, message: Message) -> Resource:
    """Return `message` as a resource."""
    body = AnyMessage()
    body.Pack(message, deterministic=True)
    return Resource(name, hashlib.sha256(body.value).hexdigest()[:16], body)
