"""The same module as azureml_inference_server_http.api.aml_request, under the name that scripts know."""

import sys

from azureml_inference_server_http.api import aml_request

sys.modules[__name__] = aml_request
