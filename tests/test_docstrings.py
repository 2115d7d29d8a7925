"""Every public class, function and method says what it is; those that take or give tensors say their shapes."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning_clip

PACKAGE = Path(lightning_clip.__file__).parent
WITHOUT = ("losses/kernels.py", "losses/cuda_kernels.py", "__main__.py")  # only where Triton is; nothing public
# A shape such as (B, D), (N,), (), (1,), or words that stand for one.
_SIZE = r"(?:\.\.\.|\*|\w+(?:[/*+ -]+\w+)*)"
SHAPE = re.compile(rf"\((?:(?:\.\.\.|[A-Z0-9]\w*(?:[/*+-]\w+)?)(?:, ?{_SIZE})*,?)?\)|of any shape|one number")


def public() -> Iterator[tuple[str, Any, ast.AST]]:
    """Dotted name, object and syntax of what is defined in the package and has no underscore."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if str(path.relative_to(PACKAGE)) in WITHOUT:
            continue
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(name)
        for node in ast.parse(path.read_text("utf-8")).body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
                continue
            found = vars(module).get(node.name)
            yield f"{name}.{node.name}", found, node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{name}.{node.name}.{inner.name}", getattr(found, inner.name, None), inner


def text_of(found: Any) -> str:
    """Its docstring, or that of the method it overrides."""
    return inspect.getdoc(found) or ""


def test_everything_public_says_what_it_is() -> None:
    assert not [name for name, found, _ in public() if not text_of(found)]


def takes_tensors(node: ast.AST) -> bool:
    """Whether a function's own signature names a Tensor, alone or in a union."""
    if not isinstance(node, ast.FunctionDef):
        return False
    kinds = [argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs)] + [node.returns]
    return any(re.search(r"\bTensor\b", ast.unparse(kind)) for kind in kinds if kind is not None)


def test_tensors_have_shapes() -> None:
    asked = [(name, bool(SHAPE.search(text_of(found)))) for name, found, node in public() if takes_tensors(node)]
    without = [name for name, has in asked if not has]
    assert len(asked) > 200
    assert len(without) <= 0.1 * len(asked), "\n".join(without)


def test_what_a_shape_is() -> None:
    assert all(SHAPE.search(text) for text in ("(B, D)", "int64 (N,)", "the loss ()", "(B, 3, H, W)", "(1,)", "(..., D)"))
    assert not any(SHAPE.search(text) for text in ("(see below)", "(Radford et al. 2021)", "f(x) = y", "(default)"))
