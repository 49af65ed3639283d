"""The engine of the commands."""

import pytest

from cli import main as cli
from tests.support.green_engine import Engine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    monkeypatch.setattr(cli, "load_inpainter", lambda _settings: engine)
    return engine
