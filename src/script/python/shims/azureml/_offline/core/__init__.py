"""What of azureml-core works without a workspace in the cloud: `Model.get_model_path`.

Used only when the environment has no azureml-core.
"""

from .model import Model

__all__ = ["Model"]


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    # Not an AttributeError: `from azureml.core import X` would replace its message by an empty one.
    raise ImportError(
        f"azureml.core.{name} does not exist here: triscore has no cloud workspace, and of azureml.core it "
        "offers Model.get_model_path alone. Add azureml-core to the environment's pip dependencies if the "
        "script needs it."
    )
