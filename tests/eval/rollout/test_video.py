import base64
import io

import av
import numpy as np

from ebt_policy.eval.rollout.video import data_url, encode


def square(position: int, size: int = 64) -> np.ndarray:
    frame = np.full((size, size, 3), 255, np.uint8)
    frame[position : position + 8, 20:28] = (200, 30, 30)
    return frame


def test_every_frame_comes_back_in_order_and_looks_the_same() -> None:
    frames = [square(i) for i in range(40)]
    with av.open(io.BytesIO(encode(frames, fps=10))) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 10
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
    assert len(decoded) == len(frames)
    error = np.abs(np.stack(decoded).astype(int) - np.stack(frames)).mean()
    assert error < 8  # of 255: chroma is stored at half resolution


def test_data_url_holds_the_very_bytes() -> None:
    video = encode([square(0)] * 3, fps=10)
    kind, _, payload = data_url(video).partition(";base64,")
    assert kind == "data:video/webm"
    assert base64.b64decode(payload) == video
