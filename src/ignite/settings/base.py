"""What the groups of settings are made of."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class SettingsError(Exception):
    """A setting is wrong; the text names the variable and the bound."""


class Group(BaseModel):
    """A frozen group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def env(*names: str) -> dict[str, Any]:
    """Name short variables of a field; of several that are set, the last wins."""
    return {"env": list(names)}


Seconds = Annotated[float, Field(ge=0, le=86_400)]
PositiveInt = Annotated[int, Field(ge=1)]
