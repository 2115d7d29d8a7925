"""Notebooks of docs/notebooks as pages: a hook of MkDocs that sets their cells as Markdown, beside the files themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def page_of(notebook: dict[str, Any], name: str) -> str:
    """The Markdown of a notebook.

    Args:
        notebook: its JSON.
        name: of its file, for the link by which it is had.

    Returns:
        Texts as they are, links between notebooks leading to their pages, and code in fences.
    """
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    title, _, rest = "\n\n".join(parts).partition("\n")
    return f"{title}\n\n[Download the notebook]({name}){{ download }}\n{rest}\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each notebook.

    Args:
        files: of the site.
        config: of MkDocs.

    Returns:
        The same files, with pages `notebooks/NAME.md`.
    """
    for path in sorted((Path(config.docs_dir) / "notebooks").glob("*.ipynb")):
        page = page_of(json.loads(path.read_text(encoding="utf-8")), path.name)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
    return files


def links_of(notebook: dict[str, Any]) -> list[str]:
    """Addresses of the Markdown links of a notebook.

    Args:
        notebook: its JSON.
    """
    texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    return re.findall(r"\]\(([^)]+)\)", "\n".join(texts))
