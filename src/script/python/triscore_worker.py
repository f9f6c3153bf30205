"""A worker: one process that runs one entry script, for the host that started it.

The host starts `python -u triscore_worker.py` with one end of a socket pair, named by TRISCORE_WORKER_FD, and
everything else in environment variables. The worker loads the entry script, calls its init() once, says what
it found, and then answers requests in their order, one at a time, until the host closes its end.

Exit codes: 0 when the host has closed, 3 when the script could not be made ready (the host has been told
why), the script's own code when the script called sys.exit().
"""

import faulthandler
import os
import signal
import sys

EXIT_NOT_READY = 3
OLDEST = (3, 8)


def main():
    # type: () -> int
    # This file alone is written so that older Pythons can read it.
    if sys.version_info < OLDEST:
        return too_old()
    from triscore_runtime import logs, openapi, script, serving, wire

    # Ctrl-C may reach the whole process group. The host decides what it means; no request is cut short by it.
    # A function and not SIG_IGN: processes that the script starts do not inherit a function.
    signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    faulthandler.enable()

    if "TRISCORE_WORKER_FD" not in os.environ:
        print("TRISCORE_WORKER_FD is not set: workers are started by triscore, not by hand", file=sys.stderr)
        return 1
    channel = wire.Channel(int(os.environ.pop("TRISCORE_WORKER_FD")))
    app_root = os.path.abspath(os.environ.get("AML_APP_ROOT", "."))
    logs.set_up()
    try:
        entry = script.load(app_root, os.environ.get("AZUREML_ENTRY_SCRIPT") or None)
        entry.initialise()
        swagger = openapi.documents(app_root, entry)
    except script.NotReady as reason:
        channel.failed(reason.stage, str(reason), reason.traceback)
        # Not sys.exit: threads that init() left behind would keep a process alive that serves nothing.
        logs.flush()
        os._exit(EXIT_NOT_READY)
    return serving.Server(channel, entry, swagger).run()


def too_old():
    # type: () -> int
    """Tells the host, without all that an old Python cannot import."""
    import json
    import socket
    import struct

    version = ".".join(map(str, sys.version_info[:3]))
    wanted = ".".join(map(str, OLDEST))
    message = "the environment's Python is %s: entry scripts need %s or newer" % (version, wanted)
    rest = json.dumps({"stage": "import", "message": message, "traceback": ""}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, int(os.environ["TRISCORE_WORKER_FD"])) as host:
        host.sendall(struct.pack("<IB", 1 + len(rest), 2) + rest)
    return EXIT_NOT_READY


if __name__ == "__main__":
    sys.exit(main())
