"""Encoding rollout frames as a small video that browsers can play."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence

import numpy as np

# VP9 in WebM: Chromium builds without proprietary codecs cannot play H.264. 300 ticks of PushT take 50 kB.
CODEC = "libvpx-vp9"
_OPTIONS = {"deadline": "realtime", "cpu-used": "6", "crf": "34", "b": "0"}


def encode(frames: Sequence[np.ndarray], fps: int) -> bytes:
    """A WebM file of the frames, each uint8 (height, width, 3) with even sides, at `fps` frames a second."""
    import av

    height, width = frames[0].shape[:2]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as container:
        stream = container.add_stream(CODEC, rate=fps, options=_OPTIONS)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode(video: bytes) -> Iterator[np.ndarray]:
    """The frames of a video, each uint8 (height, width, 3)."""
    import av

    with av.open(io.BytesIO(video), "r") as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def data_url(video: bytes) -> str:
    """The video as a `data:` URL, for a self-contained page."""
    return "data:video/webm;base64," + base64.b64encode(video).decode()


def jpeg(frame: np.ndarray, quality: int = 85) -> bytes:
    """A picture, uint8 (height, width, 3), as JPEG."""
    import cv2

    _, encoded = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()
