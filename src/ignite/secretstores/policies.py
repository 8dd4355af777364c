"""What our roles may do in the store: the texts of the policies, and the paths they speak of.

The platform's own token reaches the platform's documents, may write the policies of organisations
and mint tokens that carry one of them. It has no right of its own on any organisation's path; a
slot is read and written with a token of that organisation alone.
"""

import re

from ignite.domain.errors import InvalidArgument
from ignite.domain.identity import OrganizationName

PLATFORM_POLICY = "ignite-platform"
TOKEN_ROLE = "ignite-org"  # noqa: S105 - the name of a role, not a token
_ORG_PREFIX = "ignite-org-"

# A DNS label; nothing that could climb a path or be a wildcard in a policy.
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SLOT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DOCUMENT = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def slots_path(organization: OrganizationName) -> str:
    """Return the folder of an organisation's slots, below the mount."""
    return f"orgs/{_checked(_LABEL, organization, 'organization')}/slots"


def slot_path(organization: OrganizationName, name: str) -> str:
    """Return the path of one slot, below the mount."""
    return f"{slots_path(organization)}/{_checked(_SLOT, name, 'name')}"


def document_path(name: str) -> str:
    """Return the path of one of the platform's documents, below the mount."""
    return f"platform/{_checked(_DOCUMENT, name, 'name')}"


def organization_policy_name(organization: OrganizationName) -> str:
    """Return the name of the policy of one organisation."""
    return f"{_ORG_PREFIX}{_checked(_LABEL, organization, 'organization')}"


def organization_policy(mount: str, organization: OrganizationName) -> str:
    """Return the policy that opens one organisation's slots and nothing else."""
    slots = slots_path(organization)
    return "\n".join(
        (
            _rule(f"{mount}/data/{slots}/*", "create", "read", "update"),
            _rule(f"{mount}/metadata/{slots}/*", "create", "read", "update", "delete"),
            _rule(f"{mount}/metadata/{slots}", "list"),
            # Some stores want the list's path with a slash at its end.
            _rule(f"{mount}/metadata/{slots}/", "list"),
        )
    )


def platform_policy(mount: str) -> str:
    """Return the policy of our own role."""
    return "\n".join(
        (
            _rule(f"{mount}/data/platform/*", "create", "read", "update"),
            _rule(f"{mount}/metadata/platform/*", "create", "read", "update"),
            _rule(f"sys/policies/acl/{_ORG_PREFIX}*", "create", "read", "update"),
            _rule(f"auth/token/create/{TOKEN_ROLE}", "create", "update"),
        )
    )


def token_role() -> dict[str, object]:
    """Return the settings of the role that mints organisations' tokens."""
    return {
        "allowed_policies_glob": f"{_ORG_PREFIX}*",
        "token_type": "batch",
        "renewable": False,
        # The store wants batch tokens of a role to be orphans: they end by their time alone.
        "orphan": True,
        "token_no_default_policy": True,
    }


def _rule(path: str, *capabilities: str) -> str:
    words = ", ".join(f'"{word}"' for word in capabilities)
    return f'path "{path}" {{ capabilities = [{words}] }}'


def _checked(pattern: re.Pattern[str], text: str, field: str) -> str:
    if not pattern.fullmatch(text):
        raise InvalidArgument("has characters that a path of the store must not have", field=field)
    return text
