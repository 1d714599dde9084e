"""The compiled module; all else is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    py_modules=[],
    ext_modules=cythonize(
        [Extension("unchecked", ["unchecked.pyx"], define_macros=[("_GNU_SOURCE", None)])],
        compiler_directives={"language_level": "3"},
    ),
)
