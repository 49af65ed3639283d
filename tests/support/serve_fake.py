"""Run app.py's server with the fake engine: `python tests/serve_fake.py page|api --port ...`.

"api" leaves the page out, which saves the import of Gradio: for tests that start servers often.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import app
from tests.support.fake_engine import FakeEngine

if __name__ == "__main__":
    if sys.argv[1] == "api":
        app.create_app = lambda settings: app.create_api(settings, FakeEngine())  # type: ignore[assignment,misc]
    else:
        app.load_engine = lambda settings: FakeEngine()
    sys.exit(app.main(sys.argv[2:]))
