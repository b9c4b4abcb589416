"""Reading video files: the frames that were asked for, as a player shows them, from every file that FFmpeg decodes.

Reading begins at `read_video` in `reading`. A read passes through the files in this order:

1. `reading`: opens the file with one of `READERS` and wraps what goes wrong in `VideoError`. Here `Video` is defined.
2. `sampling`: `FrameSampling` chooses frame numbers from the frame count and the frame rate.
3. `exact`: `ExactVideo`, the default reader. It returns the frames with those numbers.
4. `packets`: what the file says of its frames before any is decoded. For that it uses `damage` (is the file whole?,
   with `asf_damage` for WMV and `byte_reader` for bytes by position), `mp4` (the sample table of MP4 and MOV) and
   `bitstream` (what the bits of one packet say).
5. `random_access`: do the packets prove which packet holds which frame?
6. `seeking`: if they do, decode from the key frame before each wanted frame. If not, `exact` decodes from the start.
7. `conversion`: from a decoded frame to RGB, the right way up.

Beside this path, `raw_readers` has decord, torchcodec and PyAV as other harnesses use them, and `against_decord` counts
the frames that raw decord would give otherwise (`decord_process` is the script that runs decord). docs/video.md says
what each library gets wrong.
"""

from llava.video.reading import (
    EXACT,
    READERS,
    OpenVideo,
    Video,
    VideoError,
    open_video,
    read_video,
    require,
    sample_video,
    stamped,
)
from llava.video.sampling import FrameSampling

__all__ = [
    "EXACT",
    "READERS",
    "FrameSampling",
    "OpenVideo",
    "Video",
    "VideoError",
    "open_video",
    "read_video",
    "require",
    "sample_video",
    "stamped",
]
