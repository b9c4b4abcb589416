import os
import sys
import traceback

from eval.child import left_behind
from eval.cli import main

if __name__ == "__main__":
    try:
        status = main()
    except BaseException:
        if not left_behind:
            raise
        traceback.print_exc()
        status = 1
    if left_behind:  # Python waits for all its processes before it ends, also for those that cannot be ended
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
