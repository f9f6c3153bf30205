"""The service described in OpenAPI 2.0, 3.0.3 and 3.1.0, word for word as the Azure ML inference server does.

Clients are generated from these documents, so their names and their words are an interface. What run() takes
and gives comes from inference-schema when the script is decorated with it; a file in the application's root
(swagger.json or swagger2.json, swagger3.json, swagger3.1.json) takes the place of a document.
"""

import json
import os
import sys
from typing import Any, Dict, Optional

from . import logs
from .script import NotReady, Script

_VERSIONS = ("2", "3", "3.1")
_ALIASES = {"2": ("2", "2.0"), "3": ("3", "3.0"), "3.1": ("3.1",)}
_FILES = {"2": ("swagger.json", "swagger2.json"), "3": ("swagger3.json",), "3.1": ("swagger3.1.json",)}

# The host takes 16 MiB of what a worker says when it is ready; escaped, three documents fit.
_CHARACTERS = 2 << 20

_FAILED = "The service failed to execute due to an error."
_JSON = "application/json"
_TEXT = "text/plain"


def documents(app_root: str, script: Script) -> Dict[str, str]:
    """The documents as JSON, by version. A version that a type of the script rules out is not among them."""
    found = {}
    for version in _VERSIONS:
        document = _users(app_root, version) or _generated(script, version)
        if document is None:
            logs.LOGGER.info(
                "No swagger of version %s: a type in the script's schema has no place in it", version
            )
            continue
        try:
            text = json.dumps(document)
        except (TypeError, ValueError, RecursionError) as error:
            logs.LOGGER.error("No swagger of version %s: the script's schema is no JSON: %s", version, error)
            continue
        if len(text) > _CHARACTERS:
            logs.LOGGER.error(
                "No swagger of version %s: it has %d characters, more than %d; shorten the schema's sample",
                version,
                len(text),
                _CHARACTERS,
            )
            continue
        found[version] = text
    return found


def _users(app_root: str, version: str) -> Any:
    for name in _FILES[version]:
        path = os.path.join(app_root, name)
        try:
            with open(path, encoding="utf-8") as file:
                document = json.load(file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as error:
            raise NotReady("check", f"{path} cannot be served as the service's swagger: {error}") from None
        if document:
            logs.LOGGER.info("Swagger of version %s: %s", version, path)
            return document
    return None


def _generated(script: Script, version: str) -> Optional[Dict[str, Any]]:
    takes: Any = {"type": "object", "example": {}}
    gives = takes
    schema_util: Any = sys.modules.get("inference_schema.schema_util")
    if schema_util is not None:
        if not set(_ALIASES[version]) & set(schema_util.get_supported_versions(script.run)):
            return None
        if script.has_schema:
            takes, gives = schema_util.get_input_schema(script.run), schema_util.get_output_schema(script.run)
    return (_version_2 if version == "2" else _version_3)(version, takes, gives)


def _info() -> Dict[str, str]:
    name = os.environ.get("SERVICE_NAME", "ML service")
    return {
        "title": name,
        "description": f"API specification for the Azure Machine Learning service {name}",
        "version": os.environ.get("SERVICE_VERSION", "1.0"),
    }


def _prefix() -> str:
    prefix = os.environ.get("SERVICE_PATH_PREFIX", "")
    return f"/{prefix.strip('/')}" if prefix else ""


def _bearer() -> Dict[str, str]:
    return {
        "type": "apiKey",
        "name": "Authorization",
        "in": "header",
        "description": "For example: Bearer abc123",
    }


def _paths(health: Dict[str, Any], score: Dict[str, Any], swagger: Dict[str, Any]) -> Dict[str, Any]:
    """The three operations; what is given of each comes between its description and nothing else."""
    check = "Simple health check endpoint to ensure the service is up at any given point."
    run = "Run web service's model and get the prediction output"
    specification = "Get the Swagger specification."
    prefix = _prefix()
    return {
        f"{prefix}/": {"get": {"operationId": "ServiceHealthCheck", "description": check, **health}},
        f"{prefix}/score": {
            "post": {
                "operationId": "RunMLService",
                "description": run,
                "security": [{"Bearer": []}],
                **score,
            }
        },
        f"{prefix}/swagger.json": {
            "get": {"operationId": "GetSwaggerSpec", "description": specification, **swagger}
        },
    }


_HEALTHY = "If service is up and running, this response will be returned with the content 'Healthy'"
_SCORED = "The service processed the input correctly and provided a result prediction, if applicable."
_SPECIFIED = "The Swagger specification."
_PAYLOAD = "The input payload for executing the real-time machine learning service."
_ERROR_SCHEMA = {"type": "object", "properties": {"message": {"type": "string"}}}


def _version_2(_version: str, takes: Any, gives: Any) -> Dict[str, Any]:
    def refer(name: str) -> Dict[str, str]:
        return {"$ref": f"#/definitions/{name}"}

    def responses(good: Dict[str, Any]) -> Dict[str, Any]:
        return {
            "responses": {"200": good, "default": {"description": _FAILED, "schema": refer("ErrorResponse")}}
        }

    string = {"type": "string"}
    health = responses({"description": _HEALTHY, "schema": string, "examples": {_JSON: "Healthy"}})
    payload = {
        "name": "serviceInputPayload",
        "in": "body",
        "description": _PAYLOAD,
        "schema": refer("ServiceInput"),
    }
    score = {
        "parameters": [payload],
        **responses({"description": _SCORED, "schema": refer("ServiceOutput")}),
    }
    asked = {"name": "version", "in": "query", "required": False, "type": "integer", "enum": [2, 3]}
    swagger = {"parameters": [asked], **responses({"description": _SPECIFIED, "schema": string})}
    return {
        "swagger": "2.0",
        "info": _info(),
        "schemes": ["https"],
        "consumes": [_JSON],
        "produces": [_JSON],
        "securityDefinitions": {"Bearer": _bearer()},
        "paths": _paths(health, score, swagger),
        "definitions": {"ServiceInput": takes, "ServiceOutput": gives, "ErrorResponse": _ERROR_SCHEMA},
    }


def _version_3(version: str, takes: Any, gives: Any) -> Dict[str, Any]:
    def content(media_type: str, schema: Any) -> Dict[str, Any]:
        return {"content": {media_type: {"schema": schema}}}

    def refer(name: str) -> Dict[str, Any]:
        return content(_JSON, {"$ref": f"#/components/schemas/{name}"})

    def responses(description: str, good: Dict[str, Any]) -> Dict[str, Any]:
        failed = {"description": _FAILED, **refer("ErrorResponse")}
        return {"responses": {"200": {"description": description, **good}, "default": failed}}

    health = responses(_HEALTHY, content(_TEXT, {"type": "string", "example": "Healthy"}))
    score = {
        "requestBody": {"description": _PAYLOAD, **refer("ServiceInput")},
        **responses(_SCORED, refer("ServiceOutput")),
    }
    asked = {
        "name": "version",
        "in": "query",
        "required": False,
        "schema": {"type": "integer", "enum": [2, 3]},
    }
    swagger = {"parameters": [asked], **responses(_SPECIFIED, content(_TEXT, {"type": "string"}))}
    return {
        "openapi": "3.1.0" if version == "3.1" else "3.0.3",
        "info": _info(),
        "security": [{"Bearer": []}],
        "paths": _paths(health, score, swagger),
        "components": {
            "schemas": {"ServiceInput": takes, "ServiceOutput": gives, "ErrorResponse": _ERROR_SCHEMA},
            "securitySchemes": {"Bearer": _bearer()},
        },
    }
