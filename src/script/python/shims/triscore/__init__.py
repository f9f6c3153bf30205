"""Scores on the device of the deployment, from an entry script, as onnxruntime is called.

    import triscore as onnxruntime

    session = onnxruntime.InferenceSession(path)
    outputs = session.run(None, {"x": x})

The model does not run in this process: it runs in the service's, on the device that the deployment file asks for,
once for all workers. Arrays cross through memory that both processes map. Needs NumPy in the environment.
"""

from typing import Any, List

from ._door import ScoreError
from ._session import InferenceSession, NodeArg

__all__ = [
    "ExecutionMode",
    "GraphOptimizationLevel",
    "InferenceSession",
    "NodeArg",
    "RunOptions",
    "ScoreError",
    "SessionOptions",
    "get_available_providers",
    "get_device",
]


class SessionOptions:
    """Takes whatever onnxruntime's takes, and has no effect: the deployment file says how a model is run."""

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_arguments, **_named: None


class RunOptions(SessionOptions):
    """As SessionOptions."""


class GraphOptimizationLevel:
    """onnxruntime's levels, for scripts that set one."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_ALL = 99


class ExecutionMode:
    """onnxruntime's modes, for scripts that set one."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


def get_available_providers() -> List[str]:
    """One, whatever it is: the device that the deployment file asks for."""
    return ["TriscoreExecutionProvider"]


def get_device() -> str:
    """What the deployment runs on is known once a model is open: see `InferenceSession.device`."""
    return "TRISCORE"
