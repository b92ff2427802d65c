"""What the CPU has for products of 8-bit integers, in the words that a saved file keeps."""

import torch

AVX512_VNNI, AVX_VNNI = "AVX-512 VNNI", "AVX-VNNI"


def dot_products() -> list[str]:
    """The instructions of an x86 CPU that add 8-bit products in 32 bits; empty where there are none."""
    cpu = torch.cpu.get_capabilities()
    names = {"avx512_vnni": AVX512_VNNI, "avx_vnni": AVX_VNNI}
    return [words for name, words in names.items() if cpu.get(name, False)]


def is_x86() -> bool:
    return bool(torch.cpu.get_capabilities().get("architecture") == "x86_64")


def describe() -> str:
    """The CPU in a few words, such as ``x86_64 with AVX-512 VNNI``."""
    architecture = torch.cpu.get_capabilities().get("architecture", "unknown")
    if not is_x86():
        return str(architecture)
    return f"{architecture} with {' and '.join(dot_products()) or 'no 8-bit dot products'}"
