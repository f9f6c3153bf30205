"""See the package above: `services` is ours, the rest is the environment's."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)
