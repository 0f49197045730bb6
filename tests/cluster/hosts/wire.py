"""A wire that loses and delays frames: what tc's netem does, for kernels that have none.

    python wire.py NEAR FAR LOSS DELAY

makes two TAP devices and carries frames between them. Each way a share ``LOSS`` of the frames is
lost, by a seed, and the others arrive ``DELAY`` seconds later.
"""

import collections
import contextlib
import fcntl
import os
import random
import select
import struct
import sys
import time

_SET_DEVICE, _TAP, _NO_HEADER = 0x400454CA, 0x0002, 0x1000
_FRAME = 2048


def device(name: str) -> int:
    """A new TAP device; closing it removes it."""
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, _SET_DEVICE, struct.pack("16sH22x", name.encode(), _TAP | _NO_HEADER))
    return handle


def carry(ends: tuple[int, int], loss: float, delay: float) -> None:
    """Carry frames for ever."""
    chance = random.Random(0)
    under_way: collections.deque[tuple[float, int, bytes]] = collections.deque()
    while True:
        pause = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        for end in select.select(ends, [], [], pause)[0]:
            frame = os.read(end, _FRAME)
            if chance.random() >= loss:
                other = ends[1] if end == ends[0] else ends[0]
                under_way.append((time.monotonic() + delay, other, frame))
        while under_way and under_way[0][0] <= time.monotonic():
            _, end, frame = under_way.popleft()
            with contextlib.suppress(OSError):  # not up, or its queue is full: lost
                os.write(end, frame)


if __name__ == "__main__":
    near, far = device(sys.argv[1]), device(sys.argv[2])
    print("begun", flush=True)
    carry((near, far), float(sys.argv[3]), float(sys.argv[4]))
