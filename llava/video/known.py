"""What is known of containers and codecs: where a picture can be had without decoding all that come before it.

What is not known to be so is decoded from the start. llava.video.bitstream tells of single packets.
"""

from __future__ import annotations

import numpy as np

from llava.video.packets import NO_TIME, Packets

WHOLE_PICTURES = ("mp4", "matroska", "flv")
"""Containers with one packet for each picture, and the time at which it is shown. AVI and ASF give the order of
decoding; MPEG-PS and MPEG-TS give the time of some packets only, and a packet may be a single field."""
DECORD_READS = ("h264", "hevc", "vp8", "libvpx", "vp9", "libvpx-vp9")
EVERY_PACKET_SHOWS = (*DECORD_READS, "av1", "libdav1d", "mjpeg", "prores", "dnxhd")
"""Decoders that give one picture for each packet of those containers that is not `silent`. Not MPEG-4 part 2 and what
is older: their packets may stand for a picture that is the one before (a VOP that is "not coded")."""


def why_from_start(packets: Packets) -> str | None:
    """Why pictures must be counted by decoding all of them; None where the packets tell which is which."""
    container = packets.container.split(",")[0]
    if not any(name in packets.container for name in WHOLE_PICTURES):
        return f"{container} does not say which picture a packet holds"
    if packets.codec not in EVERY_PACKET_SHOWS:
        return f"packets of {packets.codec} do not always show a picture of their own"
    pts = np.sort(packets.pts[~packets.silent])
    if pts[0] == NO_TIME:
        return "some of its packets have no time stamps"
    if (pts[1:] == pts[:-1]).any():
        return "its edit list shows pictures more than once" if packets.hidden.any() else "some time stamps repeat"
    if not packets.key[0] or packets.pts[0] > pts[0]:
        return "its first packet is not where it starts"
    shown = packets.pts[packets.shown]
    between = packets.pts[packets.hidden]
    if len(shown) == 0 or ((between > shown[0]) & (between < shown[-1])).any():
        return "its edit list has more than one part"
    return None


def why_decord_may_err(packets: Packets) -> str | None:
    """Why raw decord may give other frames than asked for; None where it gave the right ones in every file tried."""
    if (why := why_from_start(packets)) is not None:
        return why
    if packets.codec not in DECORD_READS:
        return f"decord is not known to read {packets.codec} rightly"
    if packets.hidden.any():
        return "its edit list hides frames, which decord counts"
    if packets.silent.any():
        return "some packets show nothing, which decord counts"
    if packets.pts[0] != 0 and (np.diff(packets.pts) < 0).any():
        return "pictures are reordered and the first is not at time 0, where decord looks for it"
    keys = packets.key_positions
    if (packets.shown[keys] != keys).any():
        return "pictures are shown before the key picture that they follow in the file (open groups)"
    return None
