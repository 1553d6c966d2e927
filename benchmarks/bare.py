"""Lets the library be imported on a machine with a GPU, torch and little else.

Packages that read files and tables are imported by many modules; what a benchmark measures on audio and codes that it
makes itself calls none of them. Where one is missing, an empty one stands in for it: anything may be taken from it, and
what is calculated with it would be nonsense, so only benchmarks that never do may call `allow_missing`.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from unittest.mock import MagicMock

MAY_BE_MISSING = ("av", "huggingface_hub", "polars", "pyarrow", "soundfile", "soxr", "torchaudio", "tqdm", "xxhash")


class _Empty(types.ModuleType):
    """A package without content, in which everything is found."""

    def __getattr__(self, name: str) -> object:
        if name.endswith("version__"):
            return "0"
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=f"{self.__name__}.{name}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, missing: Sequence[str]):
        self.missing = set(missing)

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in self.missing:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def allow_missing() -> list[str]:
    """Stand in for the packages of MAY_BE_MISSING that are not installed; their names."""
    missing = [name for name in MAY_BE_MISSING if not is_there(name)]
    if missing:
        sys.meta_path.append(_Finder(missing))
    return missing


def is_there(name: str) -> bool:
    """Whether a package is really installed."""
    spec = importlib.util.find_spec(name)
    return spec is not None and not isinstance(spec.loader, _Finder)
