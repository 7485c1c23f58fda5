"""Import kubernetes_asyncio without its thousand generated modules.

Knows the package's layout (its version is pinned for that) and nothing of Kubernetes itself. The package's `__init__`
files import every API and every model, though a client that uses plain dicts needs neither. Empty stub modules,
registered first, keep those files from running. Two libraries that the package imports, and that no call from here
reaches, are kept out in the same way: neither is in the Debian package.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE = "kubernetes_asyncio"
# `client.models` stays empty: only an answer requested as a model uses it, and kubesyncd requests dicts.
_STUBS = (_PACKAGE, f"{_PACKAGE}.client", f"{_PACKAGE}.client.models")
# urllib3 encodes passwords of HTTP Basic, dateutil reads times of models. kubesyncd has neither.
UNREACHED = ("urllib3", "dateutil", "dateutil.parser")


def available() -> bool:
    """Return whether the Kubernetes package is installed; imports nothing."""
    return _PACKAGE in sys.modules or importlib.util.find_spec(_PACKAGE) is not None


def load() -> tuple[Any, Any]:
    """Import the classes `ApiClient` and `Configuration`.

    The stubs stay, so the rest of the package cannot be imported in this process afterwards.
    Raises ImportError, with no stub left, where the package is missing or has another layout.
    """
    mine = _stub()
    try:
        with _unreached():
            api_client = importlib.import_module(f"{_PACKAGE}.client.api_client")
            configuration = importlib.import_module(f"{_PACKAGE}.client.configuration")
        return api_client.ApiClient, configuration.Configuration
    except (ImportError, AttributeError) as error:
        for name in [n for n in sys.modules if mine and n.split(".")[0] == _PACKAGE]:
            del sys.modules[name]
        raise ImportError(f"{_PACKAGE} has another layout than expected; install kubesyncd[kube]") from error


def _stub() -> bool:
    """Register the stub modules unless the package is imported already."""
    if _PACKAGE in sys.modules:
        return False
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{_PACKAGE} is not installed; install kubesyncd[kube]")
    root = spec.submodule_search_locations[0]
    for name in _STUBS:
        module = ModuleType(name)
        module.__path__ = ["/".join([root, *name.split(".")[1:]])]
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    return True


@contextmanager
def _unreached() -> Iterator[None]:
    """Put empty modules in place of the unreached libraries, unless they are imported already, and remove them."""
    names = [name for name in UNREACHED if name not in sys.modules]
    for name in names:
        sys.modules[name] = ModuleType(name)
    # The package imports this name at its top.
    if "dateutil.parser" in names:
        vars(sys.modules["dateutil.parser"])["parse"] = None
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
