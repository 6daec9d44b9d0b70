"""Size limit of outgoing datagrams: at most 1,200 bytes of UDP payload, which fits the IPv6 minimum MTU of 1,280.

Many VPNs have that MTU and silently drop larger packets. aiortc 1.16 fills RTP payloads up to 1,300 bytes and SCTP DATA
chunks up to 1,160 or 1,200. Its limits are module constants, read at each use.
"""

from aiortc import rtcsctptransport
from aiortc.codecs import h264, vpx

MAX_DATAGRAM = 1200  # bytes of UDP payload
# Around an RTP payload: header 12, header extensions up to 36, retransmission 2, SRTP tag 16. Around a DATA chunk's
# data: chunk header 16, SCTP header 12, DTLS record up to 65. Chunks are padded to a multiple of 4.
MAX_PAYLOAD = 1100


def limit_datagrams() -> None:
    """Set the limit in aiortc, for every connection of this process. Call it before the first one is made."""
    for module, name in ((h264, "PACKET_MAX"), (vpx, "PACKET_MAX"), (rtcsctptransport, "USERDATA_MAX_LENGTH")):
        assert hasattr(module, name), "aiortc has changed: see server/rtc/datagrams.py"
        setattr(module, name, MAX_PAYLOAD)
