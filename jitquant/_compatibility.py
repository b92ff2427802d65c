"""Whether the extension fits the torch that is installed."""

import torch


def check_torch_version() -> None:
    """Raises ImportError if the extension is not built, or was built with another torch than this one."""
    try:
        from jitquant._build_info import TORCH_VERSION
    except ImportError:
        raise ImportError(
            "jitquant: the extension is not built; "
            "run `pip install --no-build-isolation -e .` in the repository"
        ) from None
    if torch.__version__ != TORCH_VERSION:
        raise ImportError(
            f"jitquant: the extension was built with torch {TORCH_VERSION}, and this is torch "
            f"{torch.__version__}; install torch {TORCH_VERSION}, or build again with "
            "`pip install --no-build-isolation -e .`"
        )
