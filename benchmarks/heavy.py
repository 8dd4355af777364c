"""An app with heavy imports, made up for the bench: as many modules as a large package has.

Pure Python, so that no network is needed and no package's version changes the figures. A module has
what makes imports take their time: classes, annotations, functions, constants.
"""

from benchmarks.server import BenchServer

MODULES = 300
PACKAGE = "heavy"
HANDLER = f"import {PACKAGE}\n\nasync def handler(payload, ctx):\n    return {PACKAGE}.__name__\n"

_A_PACKAGE = 20
_CLASSES = 4
_METHODS = 6
_METHOD = """
    def method_{method}(self, first: int, second: str = "x", *rest: Any) -> dict[str, Any]:
        \"\"\"Do what number {method} does.\"\"\"
        total = 0
        for item in rest:
            if item is None:
                continue
            total += len(str(item)) * first
        return {{"first": first, "second": second, "total": total, "kept": self.kept_{number}}}
"""


def modules() -> dict[str, str]:
    """Return the app's code by path, its handler left out."""
    names = [(f"part_{number // _A_PACKAGE}", f"module_{number}") for number in range(MODULES)]
    lines = [f"from {PACKAGE}.{part} import {name}" for part, name in names]
    return {
        f"{PACKAGE}/__init__.py": "\n".join(lines) + "\n",
        **{f"{PACKAGE}/{part}/__init__.py": "" for part, _ in names},
        **{f"{PACKAGE}/{part}/{name}.py": _module() for part, name in names},
    }


def deploy_heavy(server: BenchServer, app: str, *flags: str) -> None:
    """Deploy it."""
    server.deploy(app, HANDLER, *flags, modules=modules())


def _module() -> str:
    return "from typing import Any\n" + "".join(_class(number) for number in range(_CLASSES))


def _class(number: int) -> str:
    methods = [_METHOD.format(method=method, number=number) for method in range(_METHODS)]
    head = f"\n\nclass Class{number}:\n    kept_{number}: int = {number}\n"
    return head + "".join(methods)
