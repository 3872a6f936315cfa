"""The base class of all settings."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict

Model = TypeVar("Model", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: frozen, nothing unknown, every default checked too."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
