"""A name for one start of a group of processes, where the store that they meet at has seen earlier starts.

torchrun's agents keep their store over restarts. Their count of restarts does not tell one start from the next: each
agent counts the failures of its own processes, so after one on one of two hosts the counts differ, and a start for a
new member counts nowhere. What an earlier start has left in the store (who failed, who has come) must not be met again.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store

_LONGEST_PAUSE = 0.05  # seconds between two looks for calls
_LOOKS = 500  # at calls a second, of all processes


def agree(store: Store, rank: int, size: int, seconds: float) -> str:
    """The name of this start: process 0's choice, that it tells each process which calls under a name of its own.

    Parameters
    ----------
    store : where all meet
    rank, size : which process of how many this is
    seconds : how long to wait

    Raises
    ------
    RuntimeError : not all have come in that time
    """
    mine = uuid.uuid4().hex
    if rank > 0:
        store.set(f"call/{rank}", mine)
        store.wait([f"answer/{mine}"], timedelta(seconds=seconds))
        name = store.get(f"answer/{mine}").decode()
        store.add(f"come/{name}", 1)
        return name
    answered: dict[int, bytes] = {}
    end = time.monotonic() + seconds
    while store.add(f"come/{mine}", 0) < size - 1:
        if time.monotonic() > end:
            raise RuntimeError(f"{int(store.add(f'come/{mine}', 0)) + 1} of {size} processes have come")
        for other in range(1, size):
            call = store.compare_set(f"call/{other}", "", "")  # what is there, without waiting for it
            if call and call != answered.get(other):  # a dead process's is answered too, to nobody
                store.set(f"answer/{call.decode()}", mine)
                answered[other] = call
        time.sleep(min(_LONGEST_PAUSE, size / _LOOKS))
    return mine
