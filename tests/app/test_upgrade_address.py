"""The address and the port that an upgrade keeps, as old start scripts, apps and settings spell them."""

import subprocess
from pathlib import Path

import pytest

from tests.support.serving import ROOT

READ = '. "$1/scripts/upgrade_search.sh"; FOLDER=$2; RECORD=$2/none; read_address; echo "$HOST_THERE $PORT_THERE"'


@pytest.mark.parametrize(
    ("name", "text", "address"),
    [
        ("app.py", 'demo.launch(server_name="127.0.0.1", server_port=7861)', "127.0.0.1 7861"),
        ("app.py", "launch(server_name = '127.0.0.1', server_port = 7861)", "127.0.0.1 7861"),
        ("app.py", 'port = int(os.environ.get("PORT", 7861)); host = os.getenv("HOST", "localhost")', "localhost 7861"),
        ("app.py", 'os.getenv("GRADIO_SERVER_PORT", "7861"), os.getenv("GRADIO_SERVER_NAME", "::")', "0.0.0.0 7861"),
        ("app.py", 'add("--port", type=int, default=7861); add("--host", default="127.0.0.1")', "127.0.0.1 7861"),
        ("app.py", "add('--server-port', '-p', type=int, default=7861)", "0.0.0.0 7861"),
        ("app.py", "import 2024; viewport=1024; support 3000; transport: 55", "0.0.0.0 7860"),
        ("start_app.sh", "PORT=${PORT:-7861}", "0.0.0.0 7861"),
        ("start_app.sh", 'PORT="${1:-7861}"; HOST=${HOST:-127.0.0.1}', "127.0.0.1 7861"),
        ("start_app.sh", "PORT='7861'", "0.0.0.0 7861"),
        ("start_app.sh", "python app.py --server_port 7861 --server-name 127.0.0.1", "127.0.0.1 7861"),
        ("start_app.sh", "export GRADIO_SERVER_PORT=7861", "0.0.0.0 7861"),
        ("config.yaml", "server: {host: 127.0.0.1, port: 7861}", "127.0.0.1 7861"),
        ("app.py", "print('nothing')", "0.0.0.0 7860"),
    ],
)
def test_address_is_read_however_it_is_spelt(tmp_path: Path, name: str, text: str, address: str) -> None:
    """A port that stood behind getenv, in argparse's default or as the shell's ${PORT:-7861} became 7860."""
    (tmp_path / name).write_text(text + "\n")
    told = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", READ, "read", str(ROOT), str(tmp_path)], capture_output=True, text=True
    )
    assert told.stdout.strip() == address, told.stderr
