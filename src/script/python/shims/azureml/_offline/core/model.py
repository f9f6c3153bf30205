"""Where a deployed model lies."""

import os
from typing import Any, Optional


class ModelNotFoundException(Exception):
    """There is no such model in this deployment."""


class _NoWorkspace(type):
    def __getattr__(cls, name: str) -> Any:
        raise AttributeError(
            f"Model.{name} does not exist here: triscore has no cloud workspace, and of Model it offers "
            "get_model_path alone. Add azureml-core to the environment's pip dependencies if the script "
            "needs it."
        )


class Model(metaclass=_NoWorkspace):
    """The models of this deployment."""

    def __init__(self, *_arguments: Any, **_named: Any):
        raise NotImplementedError(
            "triscore has no cloud workspace to look a Model up in: use Model.get_model_path(name, version)"
        )

    @staticmethod
    def get_model_path(model_name: str, version: Optional[int] = None, _workspace: Any = None) -> str:
        """The path of the model's one file or folder, `azureml-models/<name>/<version>/<it>`.

        By default of the newest version; `<name>` in the working directory when nothing is deployed under
        that name. Raises ModelNotFoundException, which names the places, and ValueError for a version that
        is no whole number.
        """
        if version is not None and not isinstance(version, int):
            raise ValueError(f"version is {version!r}: expected a whole number or None")
        root = os.path.join(os.environ.get("AML_APP_ROOT", "."), "azureml-models")
        of_name = os.path.join(root, model_name)
        numbers = sorted(int(entry) for entry in _entries(of_name) if entry.isdigit())
        wanted = version if version is not None else numbers[-1] if numbers else None
        if wanted in numbers:
            folder = os.path.join(of_name, str(wanted))
            inside = _entries(folder)
            if len(inside) != 1:
                raise ModelNotFoundException(
                    f"{folder} must hold exactly one file or folder to be a model's path; it holds {inside}"
                )
            return os.path.join(folder, inside[0])
        if os.path.exists(model_name):
            return model_name
        looked_for = os.path.join(of_name, "<any>" if wanted is None else str(wanted))
        raise ModelNotFoundException(
            f"There is no model {model_name!r}: looked for {looked_for} and for "
            f"{os.path.abspath(model_name)}. Deployed are: {', '.join(_entries(root)) or 'none'}."
        )


def _entries(folder: str) -> "list[str]":
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
