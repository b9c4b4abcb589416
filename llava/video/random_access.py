"""Random access: in which files can a frame be decoded without all frames before it?

The answer depends on container and codec. `exact` decodes all other files from the start.
"""

from __future__ import annotations

import numpy as np

from llava.video.packets import NO_TIME, Packets

ONE_FRAME_PER_PACKET = ("mp4", "matroska", "flv")
"""Containers with one packet per frame and the time at which it is shown. AVI and ASF give the decoding order only.
MPEG-PS and MPEG-TS give the time of some packets only, and a packet may hold a single field."""
DECORD_READS = ("h264", "hevc", "vp8", "libvpx", "vp9", "libvpx-vp9")
"""Decoders of the codecs that decord 0.6.0 is known to read."""
EVERY_PACKET_SHOWS = (*DECORD_READS, "av1", "libdav1d", "mjpeg", "prores", "dnxhd")
"""Decoders that give one frame per packet of those containers, unless the packet is `undisplayed`. MPEG-4 part 2 and
older codecs are not among them: their packets may repeat the frame before (a VOP that is "not coded")."""


def why_from_start(packets: Packets) -> str | None:
    """Say why the frames of a video must be counted by decoding all of them.

    Args:
        packets: The packets of the video.

    Returns:
        The reason, or None if the packets tell which packet holds which frame.
    """
    container = packets.container.split(",")[0]
    if not any(name in packets.container for name in ONE_FRAME_PER_PACKET):
        return f"{container} does not say which picture a packet holds"
    if packets.codec not in EVERY_PACKET_SHOWS:
        return f"packets of {packets.codec} do not always show a picture of their own"
    pts = np.sort(packets.pts[~packets.undisplayed])
    if pts[0] == NO_TIME:
        return "some of its packets have no time stamps"
    if (pts[1:] == pts[:-1]).any():
        return "its edit list shows pictures more than once" if packets.edited_out.any() else "some time stamps repeat"
    if not packets.key[0] or packets.pts[0] > pts[0]:
        return "its first packet is not where it starts"
    shown = packets.pts[packets.shown]
    cut = packets.pts[packets.edited_out]
    if len(shown) == 0 or ((cut > shown[0]) & (cut < shown[-1])).any():
        return "its edit list has more than one part"
    return None


def why_decord_may_err(packets: Packets) -> str | None:
    """Say why raw decord may give other frames than asked for.

    Args:
        packets: The packets of the video.

    Returns:
        The reason, or None for videos of a kind of which decord 0.6.0 gave the right frames in every file tried.
    """
    if (why := why_from_start(packets)) is not None:
        return why
    if packets.codec not in DECORD_READS:
        return f"decord is not known to read {packets.codec} rightly"
    if packets.edited_out.any():
        return "its edit list hides frames, which decord counts"
    if packets.undisplayed.any():
        return "some packets show nothing, which decord counts"
    if packets.pts[0] != 0 and (np.diff(packets.pts) < 0).any():
        return "pictures are reordered and the first is not at time 0, where decord looks for it"
    keys = packets.key_positions
    if (packets.shown[keys] != keys).any():
        return "pictures are shown before the key picture that they follow in the file (open groups)"
    return None
