from __future__ import annotations

from pathlib import Path

import pytest

from own_authority import OPENSSL, make_certificate


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `cert.pem` and `key.pem` for 127.0.0.1, signed by itself."""
    if OPENSSL is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder)
    return folder
