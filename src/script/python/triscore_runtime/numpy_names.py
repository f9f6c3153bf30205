"""Names that NumPy has removed since the scripts of old were written.

A script of 2020 says `np.asscalar(x)` or `np.float`, and lists `numpy` without a version; the container that it was
written for had the NumPy of its day, and today's pip brings today's. Each of these names has a plain meaning, so a script
that uses one gets it, and its log says what to write instead. What NumPy has, it keeps.
"""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any, Callable, Dict, Optional, Sequence, Set

from . import logs

#: What is no name of NumPy's any more, and what it was.
PLAIN: Dict[str, Any] = {
    "asscalar": lambda array: array.item(),
    "bool": bool,
    "complex": complex,
    "float": float,
    "int": int,
    "NINF": float("-inf"),
    "object": object,
    "str": str,
    "unicode": str,
}
#: What has another name now.
RENAMED: Dict[str, str] = {
    "alltrue": "all",
    "complex_": "complex128",
    "cumproduct": "cumprod",
    "float_": "float64",
    "in1d": "isin",
    "Inf": "inf",
    "Infinity": "inf",
    "infty": "inf",
    "NaN": "nan",
    "NAN": "nan",
    "PINF": "inf",
    "product": "prod",
    "round_": "round",
    "row_stack": "vstack",
    "sometrue": "any",
    "string_": "bytes_",
    "trapz": "trapezoid",
    "unicode_": "str_",
}


def install() -> None:
    """Has NumPy answer for its removed names from when it is imported, if it ever is."""
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds NumPy as everybody does, once, and adds to it when it has been loaded."""

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        if fullname != "numpy":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_add(module: ModuleType) -> None:
                load(module)
                add_to(module)

            spec.loader.exec_module = load_and_add  # type: ignore[method-assign]
        return spec


def add_to(numpy: ModuleType) -> None:
    """Puts the removed names behind those that this NumPy has."""
    own: Optional[Callable[[str], Any]] = getattr(numpy, "__getattr__", None)
    told: Set[str] = set()

    def missing(name: str) -> Any:
        now = RENAMED.get(name, "")
        if name not in PLAIN and not (now and hasattr(numpy, now)):
            if own is not None:
                return own(name)
            raise AttributeError(f"module {numpy.__name__!r} has no attribute {name!r}")
        if name not in told:
            told.add(name)
            instead = f"numpy.{now}" if now else "what it stood for"
            text = "numpy.%s is gone from NumPy %s; the script gets %s in its place"
            logs.LOGGER.warning(text, name, numpy.__version__, instead)
        return getattr(numpy, now) if now else PLAIN[name]

    numpy.__getattr__ = missing  # type: ignore[method-assign]
