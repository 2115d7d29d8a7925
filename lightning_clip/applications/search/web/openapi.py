"""The OpenAPI document of the API, and a page that shows it without anything from outside."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from lightning_clip.applications.search.web.operations import OPERATIONS, Operation

__all__ = ["EXAMPLES", "document", "documentation"]

_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_FAULTS = {
    "400": "a wrong value",
    "403": "a Host or an Origin that is not served",
    "404": "no such picture",
    "413": "more bytes than are taken",
}


def document(operations: Sequence[Operation] = OPERATIONS) -> dict[str, Any]:
    """The OpenAPI 3.1 document.

    Args:
        operations: the table.

    Examples:
        >>> sorted(document()["paths"])[:2]
        ['/api/classify', '/api/duplicates']
    """
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    about = {"title": "lightning-clip serve", "version": "1", "description": "Search in a collection of pictures."}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": {"schemas": {"Error": _ERROR}}}


def _described(operation: Operation) -> dict[str, Any]:
    in_path = re.findall(r"{(\w+)}", operation.path)
    parameters = [
        {
            "name": name,
            "in": "path" if name in in_path else "query",
            "required": name in in_path,
            "description": schema.get("description", ""),
            "schema": {key: value for key, value in schema.items() if key != "description"},
        }
        for name, schema in operation.parameters.items()
    ]
    kind = "image/jpeg" if operation.gives_picture else "application/json"
    faults = {
        code: {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
        for code, text in _FAULTS.items()
    }
    answer = {"type": "string", "format": "binary"} if operation.gives_picture else {"type": "object"}
    found: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{operation.method.lower()}{operation.path.removeprefix('/api')}").strip("_"),
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {"200": {"description": "the answer", "content": {kind: {"schema": answer}}}, **faults},
    }
    if operation.sends_picture:
        binary = {"schema": {"type": "string", "format": "binary"}}
        found["requestBody"] = {"required": True, "content": {"application/octet-stream": binary, "image/*": binary}}
    elif operation.body:
        required = [name for name, schema in operation.body.items() if "default" not in schema]
        schema = {"type": "object", "properties": dict(operation.body), "additionalProperties": False, "required": required}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return found


def documentation(operations: Sequence[Operation] = OPERATIONS) -> str:
    """The page, as HTML.

    Args:
        operations: the table.
    """
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>API of lightning-clip serve</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/static/page.css">'
        '<link rel="icon" href="/static/icon.svg"><body class="docs"><main><h1>API</h1>'
        '<p>All that the <a href="/">page</a> does. As a document for programs: <a href="/openapi.json">openapi.json</a>. '
        'A mistake is answered by <code>{"error": "one line that says what to do"}</code>.</p>'
        + "".join(map(_section, operations))
        + "</main></body></html>\n"
    )


def _section(operation: Operation) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(schema['type'])}</td>"
        f"<td>{escape(schema.get('description', ''))}{_default(schema)}</td></tr>"
        for name, schema in (*operation.parameters.items(), *operation.body.items())
    )
    table = f"<table><tbody>{rows}</tbody></table>" if rows else ""
    return (
        f"<section><h2><b>{operation.method}</b> <code>{escape(operation.path)}</code></h2><p>{escape(operation.summary)}.</p>"
        f"{table}<pre>{escape(_example(operation))}</pre></section>"
    )


def _default(schema: Any) -> str:
    return f" (default: <code>{escape(json.dumps(schema['default']))}</code>)" if "default" in schema else ""


EXAMPLES = {
    "/api/search": {"texts": ["a red boat"], "without": ["people"], "limit": 5},
    "/api/classify": {"labels": ["cat", "dog"], "picture": 0},
}


def _example(operation: Operation) -> str:
    address = f"http://127.0.0.1:8000{operation.path.replace('{id}', '0')}"
    if operation.sends_picture:
        return f"curl --data-binary @photo.jpg {address}"
    if operation.body:
        return f"curl {address} -H 'Content-Type: application/json' -d '{json.dumps(EXAMPLES[operation.path])}'"
    required = "".join(f"?{name}=ring" for name, schema in operation.parameters.items() if name == "text")
    return f"curl {address}{required}" + (" -o small.jpg" if operation.gives_picture else "")
