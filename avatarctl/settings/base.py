"""The base class of all settings: frozen, checked, and written as JSON whatever the names of files are."""

from __future__ import annotations

import json
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from avatarctl import jsontext

Model = TypeVar("Model", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: frozen, nothing unknown, every default checked too."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    # pydantic's own JSON refuses names of files that are not UTF-8; Python's holds them. All settings pass through here.

    def model_dump_json(self, **options: Any) -> str:
        """Return the settings as JSON, names of files in any encoding included."""
        return jsontext.dumps(self.model_dump(mode="json", **options))

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Return the settings that :meth:`model_dump_json` wrote."""
        return cls.model_validate(json.loads(json_data), **options)
