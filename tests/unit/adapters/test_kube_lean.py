"""Check that the lean import loads few modules and fails cleanly: each case in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("kubernetes_asyncio", reason="kubesyncd[kube] is not installed")


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=180
    )
    return done.stdout.strip()


def test_the_adapter_loads_none_of_the_generated_modules() -> None:
    loaded = json.loads(
        python(
            "import json, sys, kubesyncd.adapters.kube_node\n"
            "print(json.dumps([m for m in sys.modules if m.startswith('kubernetes_asyncio')]))"
        )
    )
    assert "kubernetes_asyncio.client.api_client" in loaded
    assert not [
        m
        for m in loaded
        if m.startswith(("kubernetes_asyncio.client.models.", "kubernetes_asyncio.client.api."))
    ]
    assert len(loaded) < 12


def test_asking_whether_the_package_is_there_imports_nothing() -> None:
    code = (
        "import sys\n"
        "from kubesyncd.adapters import kube_lean\n"
        "print(kube_lean.available(), 'kubernetes_asyncio' in sys.modules, 'aiohttp' in sys.modules)"
    )
    assert python(code) == "True False False"


def test_a_missing_package_is_an_import_error_that_names_the_fix() -> None:
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if 'kubernetes' in name else find(name, *a)\n"
        "from kubesyncd.adapters import kube_lean\n"
        "print(kube_lean.available())\n"
        "try: import kubesyncd.adapters.kube_node\n"
        "except ImportError as error: print(error)"
    )
    assert python(code) == "False\nkubernetes_asyncio is not installed; install kubesyncd[kube]"


def test_another_layout_is_an_import_error_that_leaves_nothing_behind(tmp_path) -> None:
    (tmp_path / "kubernetes_asyncio").mkdir()
    (tmp_path / "kubernetes_asyncio" / "__init__.py").touch()
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from kubesyncd.adapters import kube_lean\n"
        "try: kube_lean.load()\n"
        "except ImportError as error: print(error)\n"
        "print([m for m in sys.modules if m.startswith('kubernetes_asyncio')])"
    )
    assert python(code) == "kubernetes_asyncio has another layout than expected; install kubesyncd[kube]\n[]"


def test_an_already_imported_package_is_used_as_it_is() -> None:
    code = (
        "import kubernetes_asyncio.client as whole\n"
        "from kubesyncd.adapters import kube_lean\n"
        "print(kube_lean.load()[0] is whole.ApiClient)"
    )
    assert python(code) == "True"


def test_an_operators_synchronous_clients_import_no_asynchronous_one() -> None:
    code = (
        "import sys\n"
        "from kubesyncd.adapters import docker_sync, kube_lists\n"
        "print([name for name in ('aiohttp', 'asyncio', 'aiodocker', 'kubernetes_asyncio') if name in sys.modules])"
    )
    assert python(code) == "[]"
