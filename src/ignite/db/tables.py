"""The tables, as the migrations make them (a test compares the two)."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _at(name: str, *, nullable: bool = False, now: bool = False) -> "Column[object]":
    return Column(
        name,
        DateTime(timezone=True),
        nullable=nullable,
        server_default=func.now() if now else None,
    )


def _text(name: str) -> "Column[str]":
    return Column(name, Text, nullable=False, server_default="")


organizations = Table(
    "organizations",
    metadata,
    Column("id", Text, primary_key=True),
    # Names sort by their bytes whatever the locale: cursors rely on it.
    Column("name", Text(collation="C"), nullable=False, unique=True),
    _text("description"),
    _at("created_at", now=True),
)

service_accounts = Table(
    "service_accounts",
    metadata,
    Column("id", Text(collation="C"), primary_key=True),
    Column(
        "organization_id",
        Text,
        ForeignKey("organizations.id", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("name", Text, nullable=False),
    _text("description"),
    Column("roles", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("secret_hash", Text, nullable=False),
    _at("created_at", now=True),
    _at("updated_at", now=True),
    _at("last_used_at", nullable=True),
    UniqueConstraint("organization_id", "name"),
)

apps = Table(
    "apps",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column(
        "organization_id",
        Text,
        ForeignKey("organizations.id", ondelete="RESTRICT"),
        nullable=False,
    ),
    Column("organization", Text, nullable=False),
    Column("name", Text(collation="C"), nullable=False),
    Column("config", JSONB, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("active_version", Integer, nullable=False, server_default="0"),
    Column("target_version", Integer, nullable=False, server_default="0"),
    Column("last_version", Integer, nullable=False, server_default="0"),
    Column("generation", BigInteger, nullable=False, server_default="1"),
    Column("observed_generation", BigInteger, nullable=False, server_default="0"),
    _text("error"),
    _text("error_reason"),
    _at("created_at", now=True),
    _at("updated_at", now=True),
    UniqueConstraint("organization", "name"),
    Index(
        "ix_apps_behind",
        "updated_at",
        postgresql_where=text("observed_generation < generation"),
    ),
)

hostnames = Table(
    "hostnames",
    metadata,
    # The DNS label in front of the base domain, over all organisations: the constraint decides
    # between `a-b` of `c` and `a` of `b-c`.
    Column("label", Text, primary_key=True),
    Column(
        "app_id",
        BigInteger,
        ForeignKey("apps.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("port", Integer, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("app_id", BigInteger, ForeignKey("apps.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("code_kind", SmallInteger, nullable=False),
    Column("runtime", JSONB, nullable=False),
    Column("blob", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("is_archive", Boolean, nullable=False),
    Column("build_args", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("code_hash", Text, nullable=False),
    _text("artifact"),
    _text("runtime_version"),
    _text("build_id"),
    _text("deploy_id"),
    Column("config", JSONB, nullable=False),
    _text("error"),
    _text("error_reason"),
    _at("created_at", now=True),
    _at("compiled_at", nullable=True),
    PrimaryKeyConstraint("app_id", "number"),
)

builds = Table(
    "builds",
    metadata,
    Column("id", Text, primary_key=True),
    Column("deploy_id", Text, nullable=False, unique=True),
    Column(
        "app_id",
        BigInteger,
        ForeignKey("apps.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("organization", Text, nullable=False),
    Column("app_name", Text, nullable=False),
    Column("code_kind", SmallInteger, nullable=False),
    Column("runtime", JSONB, nullable=False),
    Column("blob", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("is_archive", Boolean, nullable=False),
    Column("build_args", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("code_hash", Text, nullable=False),
    Column("state", Text, nullable=False),
    _text("artifact"),
    _text("runtime_version"),
    _text("error"),
    _text("error_reason"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    _at("created_at", now=True),
    _at("started_at", nullable=True),
    _at("completed_at", nullable=True),
    _text("lease_owner"),
    _text("lease_token"),
    _at("lease_expires_at", nullable=True),
    Index(
        "ix_builds_open",
        "created_at",
        postgresql_where=text("state IN ('pending', 'running')"),
    ),
    Index(
        "ix_builds_artifact",
        "organization",
        "code_hash",
        postgresql_where=text("state = 'succeeded'"),
    ),
)

build_lines = Table(
    "build_lines",
    metadata,
    Column("build_id", Text, ForeignKey("builds.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    _at("at"),
    Column("stream", Text, nullable=False),
    Column("message", Text, nullable=False),
    PrimaryKeyConstraint("build_id", "number"),
)

app_status = Table(
    "app_status",
    metadata,
    # What the controllers last saw; written by them alone, so that config changes do not wait.
    Column("app_id", BigInteger, ForeignKey("apps.id", ondelete="CASCADE"), primary_key=True),
    Column("desired_replicas", Integer, nullable=False),
    Column("replicas", JSONB, nullable=False),
    _text("error"),
    _text("error_reason"),
    _at("updated_at", now=True),
)
