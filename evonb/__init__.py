"""Evolve language models across generations, train them within one lifetime, and see how brain-like they are."""

import sys
from importlib import import_module

__version__ = "0.1.0"


def face(package: str, places: dict) -> tuple:
    "What a wing's `__init__` needs to offer names that are imported when they are used (PEP 562): module -> names."
    home = {name: module for module, names in places.items() for name in names.split()}

    def __getattr__(name):
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        core = import_module("evonb.core")
        with core.extras_named(): value = core.with_parameters(getattr(import_module(home[name], package), name))
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__, lambda: sorted({*vars(sys.modules[package]), *home}), list(home)


def main():
    "The command `evonb`; who interrupts it while it is still loading gets a line, not a traceback."
    try:
        return import_module("evonb.cli").main()
    except KeyboardInterrupt:
        print("evonb: interrupted", file=sys.stderr)
        return 130


__getattr__, __dir__, __all__ = face(__name__, {
    ".widgets.explorers": "explore",
    ".kinds": "open_run Run",
    ".core": "Seeds",
    ".registry": "load_plugin",
})
