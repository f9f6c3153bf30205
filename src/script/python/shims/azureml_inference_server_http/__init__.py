"""The names that entry scripts import from the Azure ML inference server, which triscore takes the place of.

What is not here comes from the real package, if the environment has it.
"""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)
