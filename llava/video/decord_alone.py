"""decord in a process of its own, as a script: what hangs or crashes there costs nothing else.

Its arguments are a video file, and whole seconds after which it ends itself. It prints how many frames there are and
their rate as a line of JSON, takes a line with a JSON list of frame numbers, and prints these frames in numpy's format.
"""

import sys

if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # the directory of this file, whose modules are not to be taken for others of the same name

import json
import signal

import numpy as np
from decord import VideoReader, cpu

signal.alarm(int(sys.argv[2]))  # also where the process that started it is gone
reader = VideoReader(sys.argv[1], ctx=cpu(0), num_threads=1)
print(json.dumps([len(reader), float(reader.get_avg_fps())]), flush=True)
indices = json.loads(sys.stdin.readline())
np.save(sys.stdout.buffer, reader.get_batch(indices).asnumpy())
