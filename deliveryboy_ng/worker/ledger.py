"""What the supervisor knows of one call that is under way.

Contract: far side, standard library only, Python 3.8+.
"""

import posix

from . import parcel, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import spares, watch


class Call:
    """One call under way: its parts until it starts, then its process, pipes and timers."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.parcel = parcel.Parcel()
        self.packed_setup = b""
        self.setup: "dict[str, Any]" = {}
        self.pid = 0
        self.pipes: "dict[int, str]" = {}
        self.interrupts = 0
        # Whether large pieces of its answer are announced, whether by a socket, and whether that has been asked for.
        self.announced = self.by_socket = self.asked = False
        # Bytes of each stream so far.
        self.seen = {"stdout": 0, "stderr": 0, "reply": 0}
        # Of the answer: the head of the present record, and bytes of it that are to come.
        self.head = b""
        self.of_record = 0
        # Whether the near side knows that the function has returned, and that nothing will be made of it any more.
        self.settled = False
        self.held = b""
        # Whether its answer had begun but not come when its time was over; and how much else it had written by then.
        self.late = False
        self.chatter_before = 0
        self.started = 0.0
        self.deadline: "float | None" = None
        # When to look at what the call uses; the watch begins with the first look, which most calls do not live to see.
        self.next_look: "float | None" = None
        self.watch: "watch.Watch | None" = None
        # Bytes that are not the call's: resident pages that it shares with this process, its input, its packed box.
        self.base = self.weight = 0
        self.given = (0, 0)
        self.reaped_cpu = 0.0
        # Why the supervisor ended it, if it did: "timeout", "cancelled", "output", or the name of a watched limit.
        self.ending = ""
        self.status: "int | None" = None
        self.wall = 0.0
        self.user = self.system = 0.0
        self.max_rss = 0

    def take(self, spare: "spares.Spare") -> None:
        """It has got its process."""
        self.pid, self.base = spare.pid, spare.base
        self.weight, self.given = self.parcel.weight, self.parcel.given
        self.parcel.close()
        if self.setup["detached"]:
            for fd in spare.near:
                posix.close(fd)
        else:
            self.pipes = spare.near

    @property
    def is_trusted(self) -> bool:
        """Whether it could do here what it likes anyhow, and there is nobody else's to be done."""
        return self.setup["accepts"] is None and not self.setup["guard"] and not self.setup["shared"]

    @property
    def answered(self) -> bool:
        """Whether the function is over and its reply on the way."""
        return self.announced or (self.head != b"" and self.head[:1] not in b"AIP")

    @property
    def wants_socket(self) -> bool:
        """Whether it waits for one, to send the large pieces of its answer."""
        found = self.by_socket and not self.asked and self.head == b"" and self.of_record == 0
        return found and bool(self.setup["bulk"])

    @property
    def returned(self) -> bool:
        """Whether all of its reply has come, and is a value."""
        return self.head[:1] == b"R" and len(self.head) == records.STATUS_SIZE and self.of_record == 0

    def follow(self, data: bytes) -> None:
        """Find the records in what came of the reply; the last one has begun when there is no more before it."""
        at = 0
        while at < len(data):
            if self.of_record:
                taken = min(len(data) - at, self.of_record)
                self.of_record -= taken
            elif len(self.head) == records.STATUS_SIZE and self.answered:
                return
            else:
                taken = min(len(data) - at, records.STATUS_SIZE - len(self.head))
                self.head += data[at : at + taken]
                if len(self.head) == records.STATUS_SIZE:
                    self.of_record = int.from_bytes(self.head[1:], "big")
                    kind = self.head[:1]
                    if kind in b"IP" or (kind in b"ABC" and self.of_record <= records.LONGEST_PREFACE):
                        self.announced = self.announced or kind in b"BC"
                        self.by_socket = self.by_socket or kind == b"B"
                        self.head = b""
            at += taken

    @property
    def is_done(self) -> bool:
        """Whether nothing that is still to come can make something else of a call that has returned."""
        setup = self.setup
        return bool(setup["shared"]) and not (setup["template"] or self.ending or self.settled or setup["most_output"] is not None)

    @property
    def chatter(self) -> int:
        """Bytes of what it has written besides its answer, less those of that."""
        return self.seen["stdout"] + self.seen["stderr"] - self.seen["reply"]

    @property
    def overflows(self) -> bool:
        most = self.setup["most_output"]
        return most is not None and max(self.seen["stdout"], self.seen["stderr"]) > most

    def figures(self) -> "dict[str, object]":
        """What was seen of memory, less what the call has from its supervisor by being forked from it."""
        max_rss = max(0, self.max_rss - self.base)
        found: "dict[str, object]" = {"maxrss": max_rss, "peak": max_rss, "tasks": 1}
        if self.watch is not None:
            peak = max(self.watch.peak, max_rss if self.watch.tasks < 2 else 0)
            observed = next(iter(self.watch.exceeded.values()), 0.0)
            found.update(peak=peak, tasks=max(1, self.watch.tasks), observed="%.6f" % observed)
        if self.ending == "output":
            found["observed"] = max(self.seen["stdout"], self.seen["stderr"])
        return found
