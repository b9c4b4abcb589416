"""The command line as a process: `python -m eval` in a checkout, `vidcom2` where it is installed."""

import multiprocessing
import os
import sys
import traceback
from typing import NoReturn

from .cli import main


def command() -> NoReturn:
    """Run the command line and end the process, even if a worker survives being killed."""
    if __package__ != "eval":
        # Worker processes must not import another project's llava/ from the current directory. The command itself does
        # not: its first place to look is the directory of the script. Python 3.10 ignores this variable.
        os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        status = main()
    except BaseException:
        if not multiprocessing.active_children():
            raise
        traceback.print_exc()
        status = 1
    # At exit, Python waits for every child process, also for one that is stuck in the kernel and cannot be killed.
    for process in multiprocessing.active_children():
        process.kill()
        process.join(1.0)
    if multiprocessing.active_children():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    command()
