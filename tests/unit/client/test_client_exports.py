from __future__ import annotations

import os
import subprocess
import sys

import pytest

import batchwright.client


@pytest.mark.parametrize("name", batchwright.client.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(batchwright.client, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = batchwright.client.nonsense


def exit_status(code: str) -> int:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code], check=False, env=environ).returncode


def test_importing_the_package_imports_no_http_client() -> None:
    code = "import sys, batchwright.client; sys.exit('pyreqwest' in sys.modules)"

    assert exit_status(code) == 0


def test_the_library_imports_no_server_and_no_sql() -> None:
    code = (
        "import sys, batchwright.client as c; [getattr(c, n) for n in c.__all__]; "
        "sys.exit(bool({'fastapi', 'sqlalchemy', 'batchwright.server', 'rich', 'polars'} "
        "& set(sys.modules)))"
    )

    assert exit_status(code) == 0
