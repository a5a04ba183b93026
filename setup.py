"""Build redraft: compile csrc/ with CMake and generate the protocol's Python code.

Everything that can be said declaratively is in pyproject.toml.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()

# Folders at the top of the repository are sub-packages of `redraft`.
PACKAGE_DIR = {
    "redraft": "redraft",
    "redraft.server": "server",
    "redraft.client": "client",
    "redraft.recipe": "recipe",
    "redraft.benchmarks": "benchmarks",
}


def find_packages() -> list[str]:
    """Return every package: a folder of PACKAGE_DIR or below one that holds an __init__.py."""
    packages = []
    for name, folder in PACKAGE_DIR.items():
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            below = init.parent.relative_to(ROOT / folder).parts
            packages.append(".".join((name, *below)))
    return packages


def generate_protocol(out: Path) -> None:
    """Compile proto/ into `out`; import paths follow the folder names, so the result needs no patching."""
    from grpc_tools import protoc

    protos = [str(p) for p in sorted((ROOT / "proto").rglob("*.proto"))]
    out.mkdir(parents=True, exist_ok=True)
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}", f"--pyi_out={out}"]
    status = protoc.main([*arguments, f"--grpc_python_out={out}", *protos])
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}")


class BuildPy(build_py):
    """Generate the protocol code next to its package (editable) or into the build tree (wheel)."""

    def run(self) -> None:
        super().run()
        generate_protocol(ROOT if self.editable_mode else Path(self.build_lib))


class CMakeBuild(build_ext):
    """Build the extension with CMake; honours CMAKE_ARGS and CMAKE_BUILD_TYPE."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        build = Path(self.build_temp).resolve() / ext.name
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            f"-DCMAKE_BUILD_TYPE={os.environ.get('CMAKE_BUILD_TYPE', 'Release')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DREDRAFT_OUTPUT={target}",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--target", "_core"], check=True)


setup(
    packages=find_packages(),
    package_dir=PACKAGE_DIR,
    package_data={
        "redraft": ["py.typed", "*.pyi", "v1/*.pyi"],
        "redraft.benchmarks": ["cost_tables/*.json"],
        "redraft.recipe": ["**/*.yaml", "**/*.jinja", "**/*.txt"],
    },
    ext_modules=[Extension("redraft._core", sources=[])],
    cmdclass={"build_py": BuildPy, "build_ext": CMakeBuild},
)
