from typing import Any

from numpy.typing import NDArray

from mpinewton.arrays import Array

def libsvm(
    text: bytes, limit: int, starts: NDArray[Any], indices: NDArray[Any], values: Array, labels: Array, /
) -> tuple[int, int, int]: ...
def table(text: bytes, delimiter: int, width: int, used: NDArray[Any], out: Array, /) -> int: ...
