"""Packages of the Azure ML SDK that entry scripts import, for a machine without Azure.

This folder stands before site-packages. The SDK's packages declare `azureml` a pkgutil-style namespace; so
does this one, and every other `azureml.*` package of the environment stays importable. Two rules:

- `azureml.contrib.services` is always ours, as it is always the Azure ML inference server's own over there;
- `azureml.core` is ours only when the environment has no azureml-core: what stands in `_offline` comes last.
"""

import os
import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)
__path__.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "_offline"))
