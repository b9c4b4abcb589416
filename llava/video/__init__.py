"""Reading video files: the frames that were asked for, as a player shows them, from every file that FFmpeg decodes.

sampling (which frames), reading (the way in), exact (the reader), packets and mp4 (what a file says of its pictures),
known (what is known of containers and codecs), pictures (colours, the right way up), raw (decord, torchcodec, PyAV as
they are), against_decord (what raw decord would have given). docs/video.md says what each library gets wrong.
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
