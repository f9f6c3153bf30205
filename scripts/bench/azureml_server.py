"""Starts azureml-inference-server-http with its own command line, but listening on the loopback address only.

The program always binds every interface, and a benchmark should not open a port to the network. Nothing else changes.
"""

from azureml_inference_server_http import amlserver

amlserver.DEFAULT_HOST = "127.0.0.1"

if __name__ == "__main__":
    amlserver.run()
