"""What the worker is made of.

Standard library only, for CPython 3.8 and newer. flask and inference-schema are the environment's, and are
touched only for scripts that use them.
"""
