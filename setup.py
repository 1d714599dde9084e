"""Build of the Cython engine: every ``.pyx`` below ``hooker/`` becomes one extension module.

All of them are listed here: what is built without one of them would be a package without an engine. Built in
place, the fuzzers' targets are built as well, for the tests that replay their corpus.

``HOOKER_DEBUG=1`` builds with line tracing, bounds assertions and annotated HTML. ``HOOKER_COMPILE=later``
makes an editable installation without the modules, for who builds them in place afterwards (``./dev``).
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).parent
DEBUG = os.environ.get("HOOKER_DEBUG") == "1"
LATER = os.environ.get("HOOKER_COMPILE") == "later" and "editable_wheel" in sys.argv
DESCRIBING = {"egg_info", "dist_info", "sdist"}  # commands that compile nothing
PACKAGES = [*find_packages(str(ROOT), include=["hooker", "hooker.*"]), "hooker.bpf"]
ENGINE = [
    "_fastpath",
    "carriers.contract",
    "carriers.datagrams",
    "carriers.dccp",
    "carriers.face",
    "carriers.frame",
    "carriers.ip",
    "carriers.next_hop",
    "carriers.resolver",
    "carriers.routes",
    "carriers.udp",
    "carriers.udplite",
    "carriers.xsk",
    "engine.actions",
    "engine.again",
    "engine.cells",
    "engine.channel",
    "engine.collected",
    "engine.cut",
    "engine.translated",
    "engine.destroy",
    "engine.flows",
    "engine.frames",
    "engine.greeting",
    "engine.hk0",
    "engine.hold",
    "engine.holes",
    "engine.index",
    "engine.kept",
    "engine.kernel",
    "engine.lane",
    "engine.layout",
    "engine.lent",
    "engine.local",
    "engine.notices",
    "engine.passed",
    "engine.peers",
    "engine.places",
    "engine.polling",
    "engine.redirected",
    "engine.remote",
    "engine.rest",
    "engine.ringbuf",
    "engine.slab",
    "engine.slots",
    "engine.starts",
    "engine.stash",
    "engine.tap",
    "engine.tapped",
    "engine.trail",
    "engine.tun",
    "engine.turns",
    "engine.view",
    "engine.warm",
    "engine.wire",
    "flow.face",
    "flow.joined",
    "flow.machine",
    "flow.messages",
    "flow.proof",
    "flow.sender",
    "lab._link",
    "tcp.sansio",
    "tcp.segment",
    "tcp.twin",
    "transports.bare",
    "transports.bare_life",
    "transports.bare_out",
    "transports.child",
    "transports.connection",
    "transports.connections",
    "transports.contract",
    "transports.face",
    "transports.failed",
    "transports.listeners",
    "transports.named",
    "transports.partial",
    "transports.queues",
    "transports.quic",
    "transports.quic_conn",
    "transports.quic_core",
    "transports.quic_doors",
    "transports.quic_lanes",
    "transports.quic_tls",
    "transports.sctp",
    "transports.sources",
    "transports.stream",
    "transports.vtl",
    "transports.vtl_over",
    "vtl._loopback",
    "vtl._parts",
    "vtl.aead",
    "vtl.answers",
    "vtl.budget",
    "vtl.channel",
    "vtl.channel_out",
    "vtl.controllers.auto",
    "vtl.controllers.bbr",
    "vtl.controllers.carried",
    "vtl.controllers.cubic",
    "vtl.controllers.fixed",
    "vtl.controllers.interface",
    "vtl.controllers.newreno",
    "vtl.controllers.python",
    "vtl.cookie",
    "vtl.endpoint",
    "vtl.fec",
    "vtl.handshake",
    "vtl.keys",
    "vtl.lifecycle",
    "vtl.liveness",
    "vtl.outcome",
    "vtl.packet_in",
    "vtl.packet_out",
    "vtl.pages",
    "vtl.path",
    "vtl.pmtu",
    "vtl.proof",
    "vtl.ranges",
    "vtl.reassembly",
    "vtl.recovery",
    "vtl.registry",
    "vtl.reliability.go_back_n",
    "vtl.reliability.interface",
    "vtl.reliability.none",
    "vtl.reliability.partial",
    "vtl.reliability.python",
    "vtl.reliability.selective_repeat",
    "vtl.reliability.stop_and_wait",
    "vtl.sansio",
    "vtl.sendbuf",
    "vtl.stream",
    "vtl.timers",
    "vtl.turn",
    "vtl.wire",
]


QUIC_HEADERS = ("ngtcp2/ngtcp2_crypto_gnutls.h", "gnutls/gnutls.h")
QUIC_VERSION = range(0x000C00, 0x000D00)  # of libngtcp2: 0.12


def has_quic() -> bool:
    """Whether libngtcp2 is here. Without it there is no transport of that name, and all else is built."""
    include = Path("/usr/include")
    version = include / "ngtcp2" / "version.h"
    if not version.exists() or not all((include / name).exists() for name in QUIC_HEADERS):
        return False
    number = re.search(r"NGTCP2_VERSION_NUM\s+(0x[0-9a-f]+)", version.read_text())
    return number is not None and int(number[1], 16) in QUIC_VERSION


def is_quic(path: Path) -> bool:
    return path.parent.name == "transports" and path.stem.startswith("quic")


def libraries(path: Path) -> list[str]:
    if is_quic(path):
        return ["ngtcp2_crypto_gnutls", "ngtcp2", "gnutls"]
    return ["crypto"] if path.name == "aead.pyx" else []


def engine_sources() -> list[Path]:
    """Those of ``ENGINE``. Refuses to go on when a file is missing or is not in the list."""
    wanted = {ROOT / "hooker" / f"{name.replace('.', '/')}.pyx" for name in ENGINE}
    found = set((ROOT / "hooker").rglob("*.pyx"))
    for path in sorted(wanted - found):
        sys.exit(f"setup.py: {path.relative_to(ROOT)} is missing: this is not the whole source")
    for path in sorted(found - wanted):
        sys.exit(f"setup.py: {path.relative_to(ROOT)} is new: add it to ENGINE in setup.py")
    return sorted(path for path in found if not is_quic(path) or has_quic())


def extensions() -> list[Extension]:
    sources = engine_sources()
    if "--inplace" in sys.argv:
        sources += sorted((ROOT / "fuzz").glob("*.pyx"))
    return [
        Extension(
            ".".join(path.relative_to(ROOT).with_suffix("").parts),
            [str(path.relative_to(ROOT))],
            include_dirs=["bpf", "hooker/includes", "."],
            depends=[str(p.relative_to(ROOT)) for p in (ROOT / "bpf").glob("*.h")],
            extra_compile_args=["-O0", "-g"] if DEBUG else ["-O3", "-g1", "-fno-strict-aliasing"],
            libraries=libraries(path),
            define_macros=[("_GNU_SOURCE", None)],
        )
        for path in sources
    ]


def modules() -> list[Extension]:
    if LATER:
        return []
    if DESCRIBING.intersection(sys.argv):
        return extensions()
    return cythonize(
        extensions(),
        nthreads=os.cpu_count() or 1,
        annotate=DEBUG,
        build_dir="build/cython",
        compiler_directives={
            "language_level": "3",
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": DEBUG,
            "linetrace": DEBUG,
            "embedsignature": True,
        },
    )


setup(packages=PACKAGES, ext_modules=modules(), options={"build_ext": {"parallel": os.cpu_count() or 1}})
