"""Program that a launcher starts in a test for `mvdiff`: `tests.launched` runs its words in a forked process.

It hands over its words, folder and variables, passes signals on, and ends as that process ends. It imports nothing
that takes time.
"""

import json
import os
import signal
import socket
import sys

if __name__ == "__main__":
    with socket.create_connection(("127.0.0.1", int(os.environ["MVDIFF_TEST_RANKS"]))) as to_test:
        lines = to_test.makefile("rw")
        print(json.dumps([sys.argv, os.getcwd(), dict(os.environ)]), file=lines, flush=True)
        process = int(lines.readline())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda number, _: os.kill(process, number))
        status = int(lines.readline())
    if status < 0:  # of a signal
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)
