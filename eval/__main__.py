import multiprocessing
import os
import sys
import traceback

from .cli import main

if __name__ == "__main__":
    try:
        status = main()
    except BaseException:
        if not multiprocessing.active_children():
            raise
        traceback.print_exc()
        status = 1
    # Python waits for all its processes before it ends, also for those that nothing can end.
    for process in multiprocessing.active_children():
        process.kill()
        process.join(1.0)
    if multiprocessing.active_children():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
