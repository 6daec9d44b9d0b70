"""Frame number stamp: a bit pattern in the picture that survives the video codec, for measurements.

25 cells in the lowest max(8, W/32) rows, each W/32 wide, from the left: start bits 1 0 1, then 20 bits of the number,
highest first, then two check bits (count of ones in the number, modulo 4). 1 is luma 235, 0 is luma 16; chroma is 128.
"""

import numpy as np
from numpy.typing import NDArray

CELLS = 25
_NUMBER_BITS = 20
_START = (1, 0, 1)


def stamp(i420: NDArray[np.uint8], number: int) -> None:
    """Write ``number`` (modulo 2^20) into an I420 picture uint8 [H*3/2, W], in place."""
    width = i420.shape[1]
    height = i420.shape[0] * 2 // 3
    cell, rows = width // 32, max(8, width // 32)
    bits = _bits(number % (1 << _NUMBER_BITS))
    i420[height - rows : height, : CELLS * cell] = np.repeat(np.array(bits, np.uint8) * 219 + 16, cell)
    # I420's chroma planes are [H/2, W/2] each, stored as rows of the luma width.
    span = (CELLS * cell + 1) // 2
    for plane in (i420[height : height * 5 // 4], i420[height * 5 // 4 :]):
        plane.reshape(height // 2, width // 2)[(height - rows) // 2 :, :span] = 128


def read_stamp(luma: NDArray[np.uint8]) -> int | None:
    """The number in a luma plane uint8 [H, W], or None if there is no stamp or it is damaged."""
    height, width = luma.shape
    cell, rows = width // 32, max(8, width // 32)
    band = luma[height - rows * 3 // 4 : height - rows // 4, : CELLS * cell].astype(np.float32)
    # The middle half of each cell: its edges are smeared by the codec.
    levels = band.reshape(-1, CELLS, cell)[:, :, cell // 4 : cell - cell // 4].mean(axis=(0, 2))
    if ((levels > 90) & (levels < 160)).any():
        return None
    bits = [int(level > 125) for level in levels]
    number = int("".join(map(str, bits[3:-2])), 2)
    return number if bits == _bits(number) else None


def _bits(number: int) -> list[int]:
    digits = [number >> shift & 1 for shift in range(_NUMBER_BITS - 1, -1, -1)]
    check = sum(digits) % 4
    return [*_START, *digits, check >> 1, check & 1]
