"""Build of the Cython engine: every ``.pyx`` below ``hooker/`` becomes one extension module.

Built in place, the fuzzers' targets are built as well, for the tests that replay their corpus.

``HOOKER_DEBUG=1`` builds with line tracing, bounds assertions and annotated HTML.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
DEBUG = os.environ.get("HOOKER_DEBUG") == "1"


def extensions() -> list[Extension]:
    sources = sorted((ROOT / "hooker").rglob("*.pyx"))
    if "--inplace" in sys.argv:
        sources += sorted((ROOT / "fuzz").glob("*.pyx"))
    return [
        Extension(
            ".".join(path.relative_to(ROOT).with_suffix("").parts),
            [str(path.relative_to(ROOT))],
            include_dirs=["bpf", "hooker/includes", "."],
            depends=[str(p.relative_to(ROOT)) for p in (ROOT / "bpf").glob("*.h")],
            extra_compile_args=["-O0", "-g"] if DEBUG else ["-O3", "-g1", "-fno-strict-aliasing"],
            libraries=["crypto"] if path.name == "aead.pyx" else [],
            define_macros=[("_GNU_SOURCE", None)],
        )
        for path in sources
    ]


setup(
    ext_modules=cythonize(
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
)
