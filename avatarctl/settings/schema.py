"""The JSON Schema of a kind of preset, for editors."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from avatarctl.settings.names import keys_of
from avatarctl.settings.presets import names, settings_class

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _PresetSchema(GenerateJsonSchema):
    """The schema of what a file may hold, which is more than what settings hold: one value stands for a list of one."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        inner = super().function_before_schema(schema)
        return {"anyOf": [inner["items"], inner]} if inner.get("type") == "array" else inner


def preset_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of presets of this kind.

    It knows every setting with what it does, its type, range and default. Rules over several settings (overlap less than
    window) are beyond it: `avatarctl presets check` knows them.
    """
    model = settings_class(kind)
    schema = model.model_json_schema(schema_generator=_PresetSchema)
    defaults = model().model_dump(mode="json")  # as a file has them
    fields = schema["properties"]
    settings = {
        key: {**_plain(fields[name]), "default": defaults[name]} for key, name in keys_of(model.model_fields).items()
    }
    if "size" in fields:  # settings take pairs too
        side = {"type": "integer", "minimum": 64, "maximum": 4096, "multipleOf": 16}
        text = {
            "type": "string",
            "pattern": r"^\s*\d+\s*[xX×]\s*\d+\s*$",
            "examples": ["512x512", "480x832", "832x480"],
        }
        pair = {"type": "array", "items": side, "minItems": 2, "maxItems": 2}
        settings["size"] = {"anyOf": [text, pair], **{k: settings["size"][k] for k in ("description", "default")}}
    header = {
        "description": {"type": "string", "description": "What the preset is for, in a few words."},
        "extends": {
            "anyOf": [{"enum": sorted(names(kind))}, {"type": "string", "pattern": r"\.ya?ml$"}],
            "description": "Preset whose settings hold where this one says nothing: its name, or a file beside this one.",
        },
    }
    return {
        "$schema": DIALECT,
        "title": f"avatarctl {kind} preset",
        "description": "Settings as 'name: value'; `avatarctl presets show` tells what each comes to.",
        "type": "object",
        "additionalProperties": False,
        "properties": {**header, **settings},
        **({"$defs": schema["$defs"]} if "$defs" in schema else {}),
    }


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    """Leave out titles, which only repeat the name."""
    return {key: value for key, value in field.items() if key != "title"}
