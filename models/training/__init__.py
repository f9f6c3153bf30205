"""What the training scripts share: layers in plain numpy, the training loop, the ONNX export and its checks.

Plain numpy, because the whole chain from the data to the committed `model.onnx` then needs four small packages and
fits in a reader's head; at these sizes a training framework would only add gigabytes.
"""
