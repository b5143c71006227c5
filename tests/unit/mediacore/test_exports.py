"""The public surface: exactly what the stub declares."""

import ast
from pathlib import Path

import mediacore


def test_package_exports_what_the_stub_declares() -> None:
    stub = Path(mediacore.__file__).with_name("_native.pyi").read_text()
    declared = set()
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ClassDef):
            declared.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            declared.add(node.target.id)
    type_aliases = {"Direction", "SectionKind"}
    assert set(mediacore.__all__) == (declared | {"Event"}) - type_aliases
