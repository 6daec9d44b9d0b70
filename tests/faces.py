"""A drawn face in the canonical framing with its landmarks: geometry for tests that need no photograph."""

import cv2
import numpy as np
from numpy.typing import NDArray

LANDMARKS = {
    "cx": 0.0, "cy": 0.045, "rx": 0.44, "ry": 0.62, "mx": 0.0, "my": 0.37, "mw": 0.2, "curve": -0.05, "mtilt": 0.0,
    "lt": 0.047, "ut": 0.025, "th": 0.03, "chin": 0.3, "exl": -0.21, "eyl": -0.1, "exr": 0.21, "eyr": -0.1,
    "ea": 0.09, "eb": 0.03, "bh": 0.095, "tl": 0.8, "lidq": 0.9, "lum": 0.5,
}  # fmt: skip


def drawn_face(size: int = 256) -> NDArray[np.uint8]:
    """uint8 RGB [size, size, 3]."""

    def at(x: float, y: float) -> tuple[int, int]:
        return int((x + 1) * size / 2), int((y + 1) * size / 2)

    def half(v: float) -> int:
        return max(1, int(v * size / 2))

    marks = LANDMARKS
    image = np.full((size, size, 3), (90, 110, 140), np.uint8)
    cv2.ellipse(
        image, at(marks["cx"], marks["cy"]), (half(marks["rx"]), half(marks["ry"])), 0, 0, 360, (222, 180, 155), -1
    )
    for side in "lr":
        eye = at(marks["ex" + side], marks["ey" + side])
        cv2.ellipse(image, eye, (half(marks["ea"]), half(marks["eb"])), 0, 0, 360, (245, 245, 245), -1)
        cv2.circle(image, eye, half(marks["eb"]), (60, 40, 30), -1)
        cv2.ellipse(image, (eye[0], eye[1] - half(marks["bh"])), (half(0.11), half(0.02)), 0, 0, 360, (70, 45, 30), -1)
    cv2.ellipse(image, at(0.0, marks["my"]), (half(marks["mw"]), half(0.05)), 0, 0, 360, (170, 70, 70), -1)
    return cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.uint8)
