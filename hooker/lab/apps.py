"""Programs that the demo, the tests and the benchmarks run on the lab's hosts."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hooker import start

if TYPE_CHECKING:
    from hooker.lab import Host

HTTP_PORT = 8080
CHUNK = 1 << 20  # bytes

NGINX_CONF = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log; user root;
worker_rlimit_nofile 4096;
events {{ worker_connections 2048; }}
http {{
    access_log off; sendfile {sendfile}; tcp_nopush on; keepalive_timeout {keepalive};
    keepalive_requests 1000000; client_max_body_size 0; client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/tmp; fastcgi_temp_path {dir}/tmp; uwsgi_temp_path {dir}/tmp;
    scgi_temp_path {dir}/tmp;
    server {{
        listen {port}; listen [::]:{port} ipv6only={ipv6only}; root {dir}/www;
        location /up/ {{ dav_methods PUT DELETE; create_full_put_path on; }}
    }}
}}
"""


def write_random(path: Path, size: int) -> str:
    """Write *size* random bytes to *path* and return their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, CHUNK):
            chunk = os.urandom(min(CHUNK, size - start))
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file *path*."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def start_nginx(
    host: Host,
    directory: Path,
    port: int = HTTP_PORT,
    sendfile: bool = True,
    keepalive: int = 30,
    mapped: bool = False,
    hooked: bool = True,
) -> Path:
    """Start nginx on *host*, serving ``directory/www``, and return that once it listens.

    Files can be PUT below ``/up/``. With *mapped*, IPv4 arrives at an IPv6 socket.
    """
    (directory / "www" / "up").mkdir(parents=True, exist_ok=True)
    conf = directory / "nginx.conf"
    text = NGINX_CONF.format(
        dir=directory,
        port=port,
        sendfile="on" if sendfile else "off",
        keepalive=keepalive,
        ipv6only="off" if mapped else "on",
    )
    if mapped:
        text = text.replace(f"listen {port};", "")
    conf.write_text(text)
    with (directory / "nginx.log").open("wb") as log:
        command = [start.tool("nginx"), "-p", str(directory), "-c", str(conf)]
        host.popen(command, hooked, stdout=log, stderr=log, env=start.environment())
    host.wait_listening(port)
    return directory / "www"


def start_iperf3(host: Host, port: int = 5201, hooked: bool = True, prefix: tuple[str, ...] = ()) -> None:
    """Start an iperf3 server on *host*, run by the command *prefix* if there is one."""
    command = [*prefix, start.tool("iperf3"), "-s", "-p", str(port)]
    host.popen(command, hooked, stdout=-3, stderr=-3, env=start.environment())
    host.wait_listening(port)


def start_redis(host: Host, port: int = 6379, hooked: bool = True) -> None:
    """Start a redis server without persistence on *host*."""
    options = ["--save", "", "--appendonly", "no", "--protected-mode", "no", "--bind", "* -::*"]
    command = [start.tool("redis-server"), "--port", str(port), *options]
    host.popen(command, hooked, stdout=-3, stderr=-3, cwd=host.lab.tmp, env=start.environment())
    host.wait_listening(port)
