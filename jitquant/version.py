"""The version of jitquant, which every saved model carries."""

from importlib.metadata import version

__version__ = version("jitquant")
