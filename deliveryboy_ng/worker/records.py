"""What a call process is given and what it says, as its supervisor and the near side have to know it.

Contract: far side, standard library only, Python 3.8+.  A call is given by its setup and the three parts of its box.  Its answer,
on descriptor 3, is a sequence of records of one status byte, the payload's size in 8 bytes, and the payload:

    I value       what a generator function has made; before the last record
    A text    what is enforced from here on, line by line; the first record if there is one, and never the last
    B sizes   how large the pieces are that R does not hold (bulk.py); it waits then for a socket to come through descriptor 3,
              and writes them there before R; if none comes, it says C
    C sizes   the same, and they come here, before R        P piece   one of them
    R value   the function returned                         X records it raised: records as failure.py makes them
    U text        it returned what cannot travel   L records  box could not be unpacked
    E text        the call cannot be prepared as asked; the function has not run
    V text        another Python version would be needed; the function has not run

Values and records are pickles, or data (codec.py) for a caller that does not trust them.

Without a reply the process's end says it all: sys.exit(3) and posix._exit(3) both end it with code 3.
"""

# What a setup says, made by journey.py on the near side:
#    shared                    whether the session stays open for others
#    beside                    how many calls of it run at a time
#    template                  whether this one readies what the others are forked from
#    detached                  whether nobody listens
#    stream                    whether it makes items, before its last record
#    bulk                      whether large pieces come and go by sockets
#    confinement, limits       as their classes give them; None, or nothing
#    guard                     what keeps it from its supervisor, if anything does
#    env, cwd, umask, locale   as the caller asked, or has them
#    path, prefixes            of the caller's interpreter
#    same_files                what tells that this is the same one
#    magic, python             of the code in its box, and in words
#    timeout, grace            seconds
#    most_output               bytes of each stream, beyond which it is ended
#    keep_children             whether what it leaves may stay
#    accepts                   names of classes, where its answer is to be data; None where it is a pickle

STATUS_SIZE = 9
LONGEST_PREFACE = 1 << 16
# A box has its modules, its body, and in this place what is said of large pieces, which come by themselves.
LARGE = 2
# Exit codes of the worker's own: it failed itself, or an interrupt came when the function had already returned.
FAILED = 70
INTERRUPTED_TOO_LATE = 71
# Why a session's supervisor refuses a call that another session may well take.
NO_TEMPLATE = "the session's template has ended"


def weight(size: int, announced: bytes) -> int:
    """Bytes that a box takes up in its call: its parts twice, packed and unpacked, and large pieces, which arrive where they stay.

    :param size: bytes of its parts
    """
    return 2 * size + large(announced)


def large(announced: bytes) -> int:
    """Bytes of its large pieces."""
    if not announced:
        return 0
    from . import bulk

    return sum(size for _, size in bulk.expected(announced))
