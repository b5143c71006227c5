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
        elif isinstance(node, ast.Assign):
            declared.update(name.id for name in node.targets if isinstance(name, ast.Name))
    public = {name for name in declared if not name.startswith("_") or name == "__version__"}
    assert set(mediacore.__all__) == public
