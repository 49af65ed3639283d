"""An nginx in front of a server, under a sub-path, over http or TLS."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.serving import free_port

START_S = 10.0
MAIN = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {servers}
}}
"""
SERVER = """
server {{
  listen 127.0.0.1:{port}{tls};
  client_max_body_size 0;
  # Everything else of this site is another program's.
  location / {{ return 418; }}
  location {location} {{
    proxy_pass http://127.0.0.1:{target}{replaced};
    proxy_http_version 1.1;
    proxy_buffering off;
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
  }}
}}
"""


def find_nginx() -> str:
    """Return the program; Debian keeps it where only root looks."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    assert program, "nginx is needed: on Debian, apt-get install nginx-light"
    return program


def run_nginx(folder: Path, servers: str, *, port: int) -> subprocess.Popen[bytes]:
    """Start nginx with these `server` blocks and wait until it listens on a port."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "nginx.conf"
    file.write_text(MAIN.format(folder=folder, servers=servers), encoding="utf-8")
    with (folder / "nginx.log").open("ab") as log:
        process = subprocess.Popen([find_nginx(), "-c", str(file), "-p", str(folder)], stdout=log, stderr=log)
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    process.kill()
    raise AssertionError((folder / "nginx.log").read_text())


@dataclass
class ReverseProxy:
    """One nginx process; `strips` = it takes the sub-path off before it asks; `certificate` = it speaks TLS."""

    folder: Path
    target: int
    root_path: str
    strips: bool
    certificate: Path | None = None
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def origin(self) -> str:
        """The site."""
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> ReverseProxy:
        """Start and wait until it listens."""
        tls = f" ssl; ssl_certificate {self.certificate}; ssl_certificate_key {self.certificate}"
        text = SERVER.format(
            port=self.port, target=self.target, tls=tls if self.certificate else "",
            # With the slash nginx leads from /lama to /lama/ itself; without, the program has to.
            location=f"{self.root_path}/" if self.strips else self.root_path,
            replaced="/" if self.strips else "",
        )  # fmt: skip
        self.process = run_nginx(self.folder, text, port=self.port)
        return self

    def kill(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
