"""Builds the extension ``jitquant._C`` and, where oneDNN is found, the op library of the native target.

The op library, ``jitquant/lib/libjitquant_runtime.so``, has no Python in it. oneDNN is looked for in
``ONEDNN_ROOT`` (with ``include/`` and ``lib/``), then where the PyPI packages ``onednn-cpu-gomp`` and
``onednn-devel-cpu-gomp`` put it. Everything else about the package is in pyproject.toml.
"""

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths
except ImportError as error:
    raise SystemExit(
        f"jitquant's extension is compiled against torch, and torch cannot be imported here ({error}).\n"
        "Install it first, then build without isolation so that the build sees it:\n"
        "    pip install torch==2.13.0 setuptools wheel ninja numpy\n"
        "    pip install --no-build-isolation -e ."
    ) from error

ROOT = Path(__file__).resolve().parent
os.environ.setdefault("MAX_JOBS", "2")  # a file that includes torch needs about 1 GB to compile

# Headers of torch and Python count as system headers, so warnings show for our own code only.
SYSTEM_HEADERS = [*include_paths(), sysconfig.get_path("include")]
COMPILE_FLAGS = ["-std=c++20", "-O2", "-g0", "-Wall", "-Wextra"]
if os.environ.get("JITQUANT_WERROR") == "1":
    COMPILE_FLAGS.append("-Werror")
# Of the op library alone: the rest of the code writes to no memory of its own.
SANITIZE = [f"-fsanitize={name}" for name in [os.environ.get("JITQUANT_SANITIZE")] if name]
# Ninja does not watch system headers; torch's version in the command makes it recompile when torch changes.
COMPILE_FLAGS.append(f"-DJITQUANT_BUILT_WITH_TORCH={torch.__version__}")


RUNTIME = "jitquant.lib.libjitquant_runtime"


def sources(*folders: str) -> list[str]:
    """All C++ files in the folders, sorted and relative to the repository as setuptools wants them."""
    found = sorted(path for folder in folders for path in (ROOT / folder).glob("*.cpp"))
    if not found:
        raise SystemExit(f"no C++ files under {' and '.join(folders)}: build from a complete checkout")
    return [str(path.relative_to(ROOT)) for path in found]


def find_onednn() -> tuple[Path, Path] | None:
    """The folder of oneDNN's headers and the library itself, or None."""
    asked = os.environ.get("ONEDNN_ROOT")
    for root in [Path(asked)] if asked else [Path(sys.prefix)]:
        headers = root / "include"
        libraries = [root / folder / "libdnnl.so.3" for folder in ("lib", "lib64")]
        library = next((path for path in libraries if path.is_file()), None)
        if library is not None and (headers / "oneapi" / "dnnl" / "dnnl.hpp").is_file():
            return headers, library
    if asked:
        raise SystemExit(
            f"ONEDNN_ROOT is {asked}, which lacks include/oneapi/dnnl/dnnl.hpp or lib/libdnnl.so.3; "
            "let it name the folder that oneDNN 3 was installed into, or unset it"
        )
    return None


def compile_flags(*system_headers: str) -> list[str]:
    return [*COMPILE_FLAGS, *(flag for path in system_headers for flag in ("-isystem", path))]


def extensions() -> list[CppExtension]:
    binding = CppExtension(
        "jitquant._C",
        sources("csrc", "csrc/observers", "passes"),
        include_dirs=[str(ROOT)],
        # Without OpenMP at::parallel_for is a plain loop; the library is the one that torch has loaded.
        extra_compile_args=[*compile_flags(*SYSTEM_HEADERS), "-fopenmp"],
        extra_link_args=["-fopenmp"],
    )
    onednn = find_onednn()
    if onednn is None:
        print("jitquant: oneDNN was not found, so the native target is left out", file=sys.stderr)
        return [binding]
    headers, library = onednn
    # oneDNN's own headers come before those of another version that torch carries along.
    runtime = CppExtension(
        RUNTIME,
        sources("csrc/runtime"),
        include_dirs=[str(ROOT)],
        extra_compile_args=[*compile_flags(str(headers), *SYSTEM_HEADERS), "-fopenmp", *SANITIZE],
        # Beside the library, then where pip puts oneDNN when jitquant is in the same environment, then where
        # it was found.
        extra_link_args=[
            "-fopenmp",
            *SANITIZE,
            str(library),
            *(f"-Wl,-rpath,{path}" for path in ("$ORIGIN", "$ORIGIN/../../../..", str(library.parent))),
        ],
    )
    runtime.libraries = [name for name in runtime.libraries if name != "torch_python"]
    return [binding, runtime]


class BuildWithInfo(BuildExtension):  # type: ignore[misc]
    """Compiles into ./build, so that a second build is incremental, and notes the torch it was for."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = str(ROOT / "build" / "objects")  # an editable install would use a throw-away folder

    def get_ext_filename(self, fullname: str) -> str:
        # No Python in it, so no Python's version in its name.
        if fullname.endswith(RUNTIME.rpartition(".")[2]):
            return fullname.replace(".", "/") + ".so"
        return super().get_ext_filename(fullname)

    def get_export_symbols(self, ext: CppExtension) -> list[str]:
        return []

    def run(self) -> None:
        # An editable install copies into this folder and does not make it.
        (ROOT / "jitquant" / "lib").mkdir(exist_ok=True)
        super().run()
        text = f'TORCH_VERSION = "{torch.__version__}"\n'
        folders = {ROOT / "jitquant", ROOT / self.build_lib / "jitquant"}
        for folder in folders:
            if folder.is_dir():
                (folder / "_build_info.py").write_text(text)


setup(
    packages=["jitquant", "jitquant.exact"],
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildWithInfo},
)
