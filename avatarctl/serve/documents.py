"""What the OpenAPI document says of requests that the code reads itself, and of errors."""

from __future__ import annotations

from typing import Any

from avatarctl.serve.requests import OPERATORS
from avatarctl.settings.names import key_of
from avatarctl.settings.render import AllSettings

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message", "hint", "code"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "hint": {"type": "string"},
                "code": {"type": "integer"},
            },
        }
    },
}
_TOLD = {"content": {"application/json": {"schema": ERROR}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"description": text, **_TOLD}
    for code, text in {
        400: "The request can't be right.",
        401: "The token is missing or another one.",
        403: "Another Host or Origin than this server's.",
        404: "No such thing.",
        408: "The client was too slow.",
        409: "Not in this state.",
        413: "Too large.",
        415: "A body of another type.",
        416: "No such range.",
        422: "The Idempotency-Key of another request.",
        425: "Not there yet.",
        429: "Too many.",
        501: "This version can't do that.",
        503: "Weights or a device are missing.",
        507: "The disk is full.",
    }.items()
}


def _fields() -> dict[str, Any]:
    """Return the settings that a client may send, as JSON schema."""
    schema = AllSettings.model_json_schema()
    found = {}
    for name, about in schema["properties"].items():
        if name in OPERATORS or name in ("image", "lora", "guidance"):
            continue
        plain = {key: value for key, value in about.items() if key != "default"}
        found[key_of(name, AllSettings.model_fields)] = plain
    texts = {"type": "string"}
    return {
        **found,
        "guidance": {"description": schema["properties"]["guidance"]["description"], **texts},
        "lora": {"description": "LoRAs of this server by name: NAME or NAME:SCALE.", **texts},
        "model": {"description": "Preset; GET /v1/models lists them.", **texts},
        "seconds": {"description": "How much of the recording to use.", **texts},
        "user": {"description": "Whatever you want to find again in the video's object.", **texts},
        "extra_params": {"description": "An object of more settings.", "type": "object"},
    }


def _create() -> dict[str, Any]:
    fields = _fields()
    text = {"type": "string", "description": "The id of an uploaded file, or a data URL."}
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {**fields, "image": file, "audio": file}, "required": ["audio"]}
    plain = {"type": "object", "properties": {**fields, "image": text, "audio": text}, "required": ["audio"]}
    return {
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "maxLength": 255},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": form}, "application/json": {"schema": plain}},
        },
    }


CREATE = _create()
MOVE = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "to": {"type": "string", "enum": ["first", "last"]},
                        "before": {"type": "string"},
                        "after": {"type": "string"},
                    },
                    "minProperties": 1,
                    "maxProperties": 1,
                }
            }
        },
    }
}
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string"}},
                    "required": ["file"],
                }
            }
        },
    }
}
