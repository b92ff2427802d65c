"""Builds the C++ extension ``jitquant._C``; everything else about the package is in pyproject.toml."""

import os
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
# Ninja does not watch system headers; torch's version in the command makes it recompile when torch changes.
COMPILE_FLAGS.append(f"-DJITQUANT_BUILT_WITH_TORCH={torch.__version__}")


def sources() -> list[str]:
    """All C++ files, sorted and relative to the repository as setuptools wants them."""
    found = sorted(path for folder in ("csrc", "passes") for path in (ROOT / folder).glob("*.cpp"))
    if not found:
        raise SystemExit("no C++ files under csrc/ and passes/: build from a complete checkout")
    return [str(path.relative_to(ROOT)) for path in found]


class BuildWithInfo(BuildExtension):  # type: ignore[misc]
    """Compiles into ./build, so that a second build is incremental, and notes the torch it was for."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = str(ROOT / "build" / "objects")  # an editable install would use a throw-away folder

    def run(self) -> None:
        super().run()
        text = f'TORCH_VERSION = "{torch.__version__}"\n'
        folders = {ROOT / "jitquant", ROOT / self.build_lib / "jitquant"}
        for folder in folders:
            if folder.is_dir():
                (folder / "_build_info.py").write_text(text)


setup(
    packages=["jitquant"],
    ext_modules=[
        CppExtension(
            "jitquant._C",
            sources(),
            include_dirs=[str(ROOT)],
            extra_compile_args=[
                *COMPILE_FLAGS,
                *(flag for path in SYSTEM_HEADERS for flag in ("-isystem", path)),
            ],
        )
    ],
    cmdclass={"build_ext": BuildWithInfo},
)
