"""Validation of STAC documents without a network: the core with pystac's schemas, extensions with the schemas below.

No package contains the extensions' schemas. Those here cover the fields that ls4 writes, by their specifications: a field with a
wrong name, type or format fails. A document that references any other schema is an error.
"""

from typing import Any

from pystac.validation import validate_dict
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from ls4_assets.publishing import stac

_NUMBERS = {"type": "array", "items": {"type": "number"}}
_ITEM_PROPERTIES: dict[str, dict[str, Any]] = {
    stac.PROJECTION: {
        "proj:code": {"type": "string", "pattern": "^[A-Z]+:[0-9]+$"},
        "proj:shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
        "proj:transform": {**_NUMBERS, "minItems": 6, "maxItems": 9},
        "proj:bbox": {**_NUMBERS, "minItems": 4, "maxItems": 4},
    },
    stac.PROCESSING: {
        "processing:software": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}},
        "processing:lineage": {"type": "string", "minLength": 1},
    },
}
_FILE = {
    "file:size": {"type": "integer", "minimum": 0},
    # Hexadecimal multihash of SHA2-256: two bytes of prefix, 32 bytes of hash.
    "file:checksum": {"type": "string", "pattern": "^1220[0-9a-f]{64}$"},
}
_WMS = {"required": ["wms:layers"], "properties": {"wms:layers": {"type": "array", "minItems": 1, "items": {"type": "string"}}}}


def _closed(fields: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Schema of an object that allows only these fields with the prefix."""
    return {"type": "object", "properties": fields, "patternProperties": {f"^(?!{prefix}:)": {}}, "additionalProperties": False}


def _schemas() -> dict[str, dict[str, Any]]:
    items = {
        uri: {"type": "object", "properties": {"properties": _closed(fields, next(iter(fields)).partition(":")[0])}}
        for uri, fields in _ITEM_PROPERTIES.items()
    }
    files = {"type": "object", "properties": {"assets": {"additionalProperties": _closed(_FILE, "file")}}}
    is_wms = {"properties": {"rel": {"const": "wms"}}, "required": ["rel"]}
    links = {"type": "array", "contains": is_wms, "items": {"if": is_wms, "then": _WMS}}
    citation = _closed({"sci:citation": {"type": "string", "minLength": 1}}, "sci") | {"required": ["sci:citation"]}
    schemas = items | {
        stac.FILE: files,
        stac.SCIENTIFIC: citation,
        stac.WEB_MAP_LINKS: {"type": "object", "properties": {"links": links}},
    }
    return {uri: {"$schema": "http://json-schema.org/draft-07/schema#", **schema} for uri, schema in schemas.items()}


class _Offline(JsonSchemaSTACValidator):
    def __init__(self) -> None:
        super().__init__()
        self.schema_cache |= _schemas()

    def _get_schema(self, schema_uri: str) -> dict[str, Any]:
        assert schema_uri in self.schema_cache, f"{schema_uri} would be fetched"
        return self.schema_cache[schema_uri]


def validate(document: dict[str, Any]) -> None:
    """Validate the plain dictionary, because pystac's classes would follow its links. Raises STACValidationError."""
    validate_dict(document, validator=_Offline())
