"""The entry script: found, imported, checked, and made ready.

What is wrong with a script is said once, before it serves: `NotReady` carries the stage ("import", "check" or
"init"), one line for people, and the traceback without the worker's own frames.
"""

import importlib.util
import inspect
import os
import sys
import traceback
from types import ModuleType, TracebackType
from typing import Any, List, Optional

from . import logs

STRING, SCHEMA, RAW_HTTP = "string", "schema", "rawhttp"

_MODULE_NAME = "entry_module"
_MESSAGE_CHARACTERS = 500


class NotReady(Exception):
    """The script cannot be served; the message is one line for people."""

    def __init__(self, stage: str, message: str, trace: str = ""):
        super().__init__(message)
        self.stage = stage
        self.traceback = trace


class Script:
    """An entry script whose functions have been checked."""

    def __init__(self, init: Any, run: Any):
        self._init = init
        self.run = run
        parameters = list(inspect.signature(run).parameters.values())
        by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if any(parameter.kind not in by_name for parameter in parameters):
            raise NotReady("check", "run() cannot accept positional-only arguments, *args, or **kwargs.")
        #: run() wants the HTTP headers.
        self.wants_headers = any(parameter.name == "request_headers" for parameter in parameters)
        #: What run() takes besides.
        self.parameters = [parameter for parameter in parameters if parameter.name != "request_headers"]
        if not self.parameters:
            other = ' other than "request_headers"' if self.wants_headers else " for input data"
            raise NotReady("check", f"run() needs to accept an argument{other}.")
        #: run() is decorated with inference-schema.
        self.has_schema = _is_schema_decorated(run)
        raw = _raw_http_requested()
        if raw and self.has_schema:
            raise NotReady("check", "run() cannot be decorated with both @rawhttp and @input_schema")
        #: How run() takes its input.
        self.mode = RAW_HTTP if raw else SCHEMA if self.has_schema else STRING
        logs.LOGGER.info("%s", self._described())

    def _described(self) -> str:
        if self.mode == RAW_HTTP:
            return "run() is decorated with @rawhttp: it is given the HTTP request as a flask request object."
        names = ", ".join(parameter.name for parameter in self.parameters)
        if self.mode == SCHEMA:
            return f"run() is decorated with @input_schema: it is given {names}."
        return f"run() is not decorated: it is given the request's body as the string {names.split(',')[0]}."

    def initialise(self) -> None:
        """Calls init(). What goes wrong is logged, with what the model directory holds."""
        logs.LOGGER.info("Calling init()")
        try:
            self._init()
        except BaseException as error:  # sys.exit() in init() is a failure like any other
            trace = user_traceback(error)
            logs.LOGGER.error("User's init function failed")
            logs.LOGGER.error("Encountered Exception %s", trace)
            model_dir = os.environ.get("AZUREML_MODEL_DIR", "")
            if model_dir and os.path.exists(model_dir):
                try:
                    logs.log_tree(model_dir)
                except OSError as unreadable:
                    logs.LOGGER.error("%s", unreadable)
            raise NotReady("init", f"init() failed: {_one_line(error)}", trace) from None
        logs.LOGGER.info("init() has returned")


def load(app_root: str, entry_script: Optional[str]) -> Script:
    """Imports the entry script, which is relative to `app_root`, or the module `main` when there is none."""
    # As the Azure ML inference server has it: the root of the application first, since it is also the working
    # directory; root and source folder again last, behind the packages of the environment.
    source_folder = os.environ.get("AZUREML_SOURCE_DIRECTORY")
    sys.path.insert(0, app_root)
    sys.path.append(app_root)
    if source_folder:
        sys.path.append(os.path.join(app_root, source_folder))

    path = os.path.join(app_root, entry_script) if entry_script else os.path.join(app_root, "main.py")
    try:
        logs.load_configuration(app_root, os.path.dirname(path))
    except ValueError as error:
        raise NotReady("import", str(error)) from None
    module = _imported(path) if entry_script else _imported_main(app_root)
    where = getattr(module, "__file__", path)
    for function in ("init", "run"):
        if not hasattr(module, function):
            raise NotReady("check", f"User script at {where} does not have a {function}() function defined.")
    # Generated driver scripts wrap the real one: they add to init(), but pass arguments on to run() wrongly
    # when that is decorated. So init() is the driver's, and run() the real script's.
    run = module.run
    driven = getattr(module, "driver_module", None)
    if isinstance(driven, ModuleType) and hasattr(driven, "run"):
        run = driven.run
        logs.LOGGER.info("Found the driver script %s of the entry script %s", where, driven.__file__)
    else:
        logs.LOGGER.info("Found the entry script %s", where)
    try:
        return Script(module.init, run)
    except (TypeError, ValueError) as error:
        raise NotReady("check", f"run() cannot be inspected: {_one_line(error)}") from None


def user_traceback(error: BaseException) -> str:
    """The traceback from the script's first frame on."""
    own = os.path.dirname(os.path.abspath(__file__))
    frames: Optional[TracebackType] = error.__traceback__
    while frames is not None and (
        os.path.dirname(frames.tb_frame.f_code.co_filename) == own
        or frames.tb_frame.f_code.co_filename.startswith("<frozen importlib")
    ):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip("\n")


def _imported(path: str) -> ModuleType:
    if not os.path.isfile(path):
        folder = os.path.dirname(path)
        there = (
            ", ".join(sorted(os.listdir(folder))[:20]) if os.path.isdir(folder) else "which does not exist"
        )
        _fail(FileNotFoundError(f"there is no entry script {path}; in its folder: {there or 'nothing'}"))
    spec = importlib.util.spec_from_file_location(_MODULE_NAME, path)
    if spec is None or spec.loader is None:
        raise NotReady("import", f"the entry script {path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # dataclasses, pickle and typing look the module up by name.
    sys.modules[_MODULE_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        _fail(error)
    return module


def _imported_main(app_root: str) -> ModuleType:
    # The worker itself is `__main__`, not `main`: the name is free for the application's.
    try:
        return importlib.import_module("main")
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "main":
            _fail(FileNotFoundError(f"no entry script is named, and there is no main.py in {app_root}"))
        _fail(error)
        raise  # not reached: _fail raises


def _fail(error: BaseException) -> None:
    trace = user_traceback(error)
    logs.LOGGER.error("The entry script cannot be imported. %s", trace)
    message = f"the entry script cannot be imported: {_one_line(error)}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        message += f" (add what provides {error.name.partition('.')[0]!r} to the environment's dependencies)"
    raise NotReady("import", message, trace) from None


def _one_line(error: BaseException) -> str:
    lines: List[str] = str(error).splitlines() or [""]
    text = type(error).__name__ + (f": {lines[0]}" if lines[0] else "")
    at = traceback.extract_tb(error.__traceback__)
    own = os.path.dirname(os.path.abspath(__file__))
    if at and os.path.dirname(at[-1].filename) != own:
        text += f" ({os.path.basename(at[-1].filename)}, line {at[-1].lineno})"
    return text[:_MESSAGE_CHARACTERS]


def _is_schema_decorated(run: Any) -> bool:
    # Nothing is decorated unless the script has imported the decorators.
    schema_util: Any = sys.modules.get("inference_schema.schema_util")
    return schema_util is not None and bool(schema_util.is_schema_decorated(run))


def _raw_http_requested() -> bool:
    aml_request = sys.modules.get("azureml_inference_server_http.api.aml_request")
    return bool(getattr(aml_request, "_rawHttpRequested", False))
