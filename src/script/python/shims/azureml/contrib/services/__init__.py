"""Raw HTTP for entry scripts: see aml_request and aml_response."""

from .aml_request import rawhttp as rawhttp
