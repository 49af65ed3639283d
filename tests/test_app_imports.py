"""Starting imports no more than it needs: seconds of every start."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COUNT_STUBS = """
import sys
opened = []
sys.addaudithook(lambda event, given: opened.append(given[0]) if event == "open" else None)
from web.stubs import without_stubs
{how}
    import gradio
print(sum(str(path).endswith(".pyi") for path in opened), gradio.HTML("x").value)
print(any(type(finder).__module__ == "web.stubs" for finder in sys.meta_path))
"""


@pytest.mark.parametrize(("how", "reads_stubs"), [("with without_stubs():", False), ("if True:", True)])
def test_gradio_leaves_its_stubs_alone_only_inside_the_block(how: str, reads_stubs: bool) -> None:
    """Gradio parses and rewrites 81 type stubs per import, 2 s of the start."""
    code = COUNT_STUBS.format(how=how)
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    count, value, finder_left = printed.split()
    assert (int(count) > 0) is reads_stubs
    assert value == "x"
    assert finder_left == "False"
