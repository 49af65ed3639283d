"""An nginx in front of a server, under a sub-path, over http or TLS."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.serving import free_port

START_S = 10.0
CONFIGURATION = """
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
}}
"""


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
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
        assert program, "nginx is needed: on Debian, apt-get install nginx-light"
        self.folder.mkdir(parents=True, exist_ok=True)
        tls = f" ssl; ssl_certificate {self.certificate}; ssl_certificate_key {self.certificate}"
        text = CONFIGURATION.format(
            folder=self.folder, port=self.port, target=self.target, tls=tls if self.certificate else "",
            # With the slash nginx leads from /lama to /lama/ itself; without, the program has to.
            location=f"{self.root_path}/" if self.strips else self.root_path,
            replaced="/" if self.strips else "",
        )  # fmt: skip
        file = self.folder / "nginx.conf"
        file.write_text(text, encoding="utf-8")
        with (self.folder / "nginx.log").open("ab") as log:
            self.process = subprocess.Popen([program, "-c", str(file), "-p", str(self.folder)], stdout=log, stderr=log)
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        raise AssertionError((self.folder / "nginx.log").read_text())

    def kill(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
