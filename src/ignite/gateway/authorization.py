"""Who may pass at Envoy: a good token, of exactly one organisation, with the scope.

`jwt_authn` believes a token and leaves its claims in the request's metadata; RBAC, per route,
decides over them. Both fail closed. A rule that only looks for the app's organisation among the
token's keys would accept a token that lists two, hence the CEL condition on the number of keys. It
costs 18 µs, a third of what bare Envoy needs for a request, so it is asked of other issuers alone:
what has our own signature lists one.
"""

from collections.abc import Mapping
from typing import Any

from ignite.domain.identity import ROLES, Scope
from ignite.domain.routes import Route
from ignite.gateway import names
from ignite.gateway.shape import Issuer, Shape

JWT_FILTER = "envoy.filters.http.jwt_authn"
RBAC_FILTER = "envoy.filters.http.rbac"
JWT_TYPE = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3."
RBAC_TYPE = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3."
REQUIREMENT = "caller"
API_REQUIREMENT = "api"
REMEMBERED_TOKENS = 1000
"""Tokens of which each of Envoy's workers remembers that their signature is good."""

CLAIMS = "claims"

Config = dict[str, Any]


def jwt_filter_reference() -> Config:
    """Return the place of the filter that verifies tokens; the filter itself comes beside it.

    A filter that comes by discovery is replaced in place. As a part of the listener, a change of it
    would end the connections of everyone.
    """
    return {
        "name": JWT_FILTER,
        "config_discovery": {
            "config_source": {"ads": {}, "resource_api_version": "V3"},
            "type_urls": [f"{JWT_TYPE}JwtAuthentication"],
        },
    }


def jwt_filter(shape: Shape, generation: str) -> Config:
    """Return the filter that verifies bearer tokens on the routes that ask for it.

    Envoy remembers whose signature was good and goes on believing it when the key is withdrawn. So
    tokens are remembered only where a `generation` names the set of keys: another one is another
    filter, and that has seen no token yet.
    """
    providers: Config = {}
    requirements: Config = {}
    for requirement in (REQUIREMENT, API_REQUIREMENT):
        # Code of a tenant must not get the means to act as its caller; the API verifies again.
        is_api = requirement == API_REQUIREMENT
        made = {
            f"{_name(issuer)}{':api' if is_api else ''}{generation}": {
                **_provider(issuer, shape, remembers=bool(generation)),
                "forward": is_api,
            }
            for issuer in shape.issuers
        }
        asked: list[Config] = [{"provider_name": name} for name in made]
        any_of = {"requires_any": {"requirements": asked}}
        requirements[requirement] = asked[0] if len(asked) == 1 else any_of
        providers |= made
    return {
        "name": JWT_FILTER,
        "typed_config": {
            "@type": f"{JWT_TYPE}JwtAuthentication",
            "providers": providers,
            "requirement_map": requirements,
            "bypass_cors_preflight": False,
        },
    }


def rbac_filter() -> Config:
    """Return the filter that the routes' own rules hang on; alone it decides nothing."""
    return {"name": RBAC_FILTER, "typed_config": {"@type": f"{RBAC_TYPE}RBAC"}}


def api_rules(shape: Shape) -> Config:
    """Return the per-route configuration of what Envoy gathers for the API: first a good token.

    What it allows is the API's to say. Where Envoy cannot know all keys, only the API can tell.
    """
    if not shape.checks_tokens:
        return {}
    return {JWT_FILTER: {"@type": f"{JWT_TYPE}PerRouteConfig", "requirement_name": API_REQUIREMENT}}


def route_rules(route: Route, shape: Shape) -> Config:
    """Return the per-route configuration that guards `route`."""
    if route.allow_unauthenticated:
        return {}
    policies: Config = {}
    for issuer in shape.issuers:
        condition = None if issuer.is_builtin else _one_organization()
        policies[_name(issuer)] = _policy(_principals(route, issuer), condition)
        if not issuer.is_builtin:
            # Without the claim of ours an issuer may name the organisation in a plain one.
            flat = [_not(_claim(("organization",), {"present_match": True}))]
            policies["external_flat"] = _policy(_principals(route, issuer, flat), None)
    return {
        JWT_FILTER: {"@type": f"{JWT_TYPE}PerRouteConfig", "requirement_name": REQUIREMENT},
        RBAC_FILTER: {
            "@type": f"{RBAC_TYPE}RBACPerRoute",
            "rbac": {"rules": {"action": "ALLOW", "policies": policies}},
        },
    }


def _name(issuer: Issuer) -> str:
    return "builtin" if issuer.is_builtin else "external"


def _provider(issuer: Issuer, shape: Shape, *, remembers: bool) -> Config:
    cluster = names.EDGE if issuer.is_builtin else names.EXTERNAL_ISSUER
    return {
        "issuer": issuer.issuer,
        "audiences": [issuer.audience],
        "require_expiration": True,
        "clock_skew_seconds": 5,
        # The scheme's name may be in any case; these are the ones that are written.
        "from_headers": [
            {"name": "Authorization", "value_prefix": prefix}
            for prefix in ("Bearer ", "bearer ", "BEARER ")
        ],
        "payload_in_metadata": CLAIMS,
        # What is remembered is held to its time and audience at every use.
        **({"jwt_cache_config": {"jwt_cache_size": REMEMBERED_TOKENS}} if remembers else {}),
        "remote_jwks": {
            "http_uri": {"uri": issuer.jwks_uri, "cluster": cluster, "timeout": "5s"},
            "cache_duration": f"{shape.jwks_cache_secs:g}s",
            "async_fetch": {"fast_listener": True, "failed_refetch_duration": "1s"},
            "retry_policy": {"num_retries": 3},
        },
    }


def _policy(ids: list[Config], condition: Config | None) -> Config:
    return {
        "permissions": [{"any": True}],
        "principals": [{"and_ids": {"ids": ids}}],
        **({"condition": condition} if condition else {}),
    }


def _principals(route: Route, issuer: Issuer, flat: list[Config] | None = None) -> list[Config]:
    ids = [_claim(("iss",), {"string_match": {"exact": issuer.issuer}})]
    if issuer.is_builtin:
        among = {"regex": f"(.* )?{Scope.INVOKE_APP}( .*)?"}
        ids.append(_claim(("scope",), {"string_match": {"safe_regex": among}}))
    else:
        path = tuple(issuer.roles_claim.split("."))
        roles = sorted(name for name, scopes in ROLES.items() if Scope.INVOKE_APP in scopes)
        ids.append({"or_ids": {"ids": [_claim(path, _holds(role)) for role in roles]}})
    if flat is not None:
        name = route.app.organization
        present = {"present_match": True}
        is_member = {"string_match": {"exact": name}}
        ids += [*flat, _claim(("org_name",), present if route.is_public else is_member)]
    elif not route.is_public:
        ids.append(_membership(route, issuer))
    return ids


def _not(principal: Config) -> Config:
    return {"not_id": principal}


def _membership(route: Route, issuer: Issuer) -> Config:
    organization = ("organization", str(route.app.organization))
    if issuer.is_builtin and route.organization_id:
        # The id too: a name that was given up and taken again is another tenant.
        return _claim((*organization, "id"), {"string_match": {"exact": route.organization_id}})
    return _claim(organization, {"present_match": True})


def _holds(word: str) -> Config:
    return {"list_match": {"one_of": {"string_match": {"exact": str(word)}}}}


def _claim(path: tuple[str, ...], value: Mapping[str, Any]) -> Config:
    keys = [{"key": part} for part in (CLAIMS, *path)]
    return {
        "sourced_metadata": {
            "metadata_matcher": {"filter": JWT_FILTER, "path": keys, "value": dict(value)}
        }
    }


def _one_organization() -> Config:
    """Return `size(metadata.filter_metadata[JWT_FILTER]["claims"]["organization"]) == 1`."""
    found: Config = {
        "select_expr": {
            "operand": {"ident_expr": {"name": "metadata"}},
            "field": "filter_metadata",
        }
    }
    for key in (JWT_FILTER, CLAIMS, "organization"):
        found = _call("_[_]", found, {"const_expr": {"string_value": key}})
    return _call("_==_", _call("size", found), {"const_expr": {"int64_value": "1"}})


def _call(function: str, *args: Config) -> Config:
    return {"call_expr": {"function": function, "args": list(args)}}
