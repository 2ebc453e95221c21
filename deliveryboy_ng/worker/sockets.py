"""Descriptors passed through sockets (unix(7), SCM_RIGHTS).

Contract: far side, standard library only, Python 3.8+.
"""

import _socket
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INT = 4
_SCM_CREDENTIALS = 2  # unix(7)


def of(fd: int) -> "Any":
    """The socket of this descriptor; to be detached from it, or it closes that."""
    if _socket.getdefaulttimeout() is None:
        return _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fileno=fd)
    # Whoever has said that new sockets shall not wait for ever did not mean this one, which is none.
    blocks = posix.get_blocking(fd)
    made = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fileno=fd)
    made.settimeout(None)
    posix.set_blocking(fd, blocks)
    return made


def rights(fds: "list[int]") -> "list[tuple[int, int, bytes]]":
    """What passes them, for sendmsg()."""
    packed = b"".join(fd.to_bytes(_INT, sys.byteorder) for fd in fds)
    return [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if fds else []


def receive(socket: "Any", size: int, most: int) -> "tuple[bytes, list[int]]":
    """Bytes, and the descriptors that came with them; -1 behind them if there was no room here for all.

    :raises OSError: BlockingIOError too
    """
    data, words, flags, _ = socket.recvmsg(size, _socket.CMSG_SPACE(most * _INT))
    found: "list[int]" = []
    for _, _, packed in words:
        found += [int.from_bytes(packed[at : at + _INT], sys.byteorder) for at in range(0, len(packed) - _INT + 1, _INT)]
    if flags & _socket.MSG_CTRUNC:
        found.append(-1)
    return data, found


def receive_descriptor(fd: int) -> int:
    """The descriptor that comes through the socket *fd*, -1 if none does."""
    try:
        socket = of(fd)
    except OSError:
        return -1  # it is none
    try:
        _, found = receive(socket, 1, 1)
    except OSError:
        return -1
    finally:
        socket.detach()
    return found[0] if found else -1


def send_descriptor(fd: int, passed: int) -> bool:
    """Send it, or, if it is -1, say that there is none; nobody waits for room.  Tells whether it went."""
    try:
        socket = of(fd)
    except OSError:
        return False
    try:
        socket.sendmsg([b"+"], rights([passed] if passed >= 0 else []), _socket.MSG_DONTWAIT)
    except OSError:
        return False
    finally:
        socket.detach()
    return True


def send(fd: int, data: bytes, passed: "list[int]", waits: bool = True) -> None:
    """Send a byte, and these descriptors with it.

    :param waits: for room
    :raises OSError: BlockingIOError too
    """
    socket = of(fd)
    try:
        socket.sendmsg([data], rights(passed), 0 if waits else _socket.MSG_DONTWAIT)
    finally:
        socket.detach()


def ask_for_credentials(fd: int) -> None:
    """Have the kernel tell who sends what comes there."""
    socket = of(fd)
    socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
    socket.detach()


def receive_sender(fd: int) -> int:
    """Take one byte that has come, and tell which process sent it, 0 if none did."""
    socket = of(fd)
    try:
        data, words, _, _ = socket.recvmsg(1, _socket.CMSG_SPACE(3 * _INT), _socket.MSG_DONTWAIT)
    except OSError:
        return 0
    finally:
        socket.detach()
    found = [word for level, kind, word in words if (level, kind) == (_socket.SOL_SOCKET, _SCM_CREDENTIALS)]
    return int.from_bytes(found[0][:_INT], sys.byteorder) if data and found else 0
