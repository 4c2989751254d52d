from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import batchwright


def test_every_public_name_can_be_imported() -> None:
    for name in batchwright.__all__:
        assert getattr(batchwright, name) is not None
        assert name in dir(batchwright)


def test_the_lazy_names_are_the_public_ones() -> None:
    assert {*batchwright._HOMES, "__version__"} == {*batchwright.__all__}


def test_the_version_is_the_one_of_the_package() -> None:
    assert batchwright.__version__ == version("batchwright")


def test_importing_the_package_imports_no_library() -> None:
    code = (
        "import sys, batchwright;"
        "print([m for m in ('fastapi', 'polars', 'sqlalchemy', 'typer', 'genai_prices', 'openai')"
        " if m in sys.modules])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"


def test_the_run_command_imports_no_server_or_price_library() -> None:
    code = (
        "import sys, batchwright.local.runner, batchwright.wiring;"
        "print([m for m in ('fastapi', 'uvicorn', 'polars', 'genai_prices', 'openai')"
        " if m in sys.modules])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"
