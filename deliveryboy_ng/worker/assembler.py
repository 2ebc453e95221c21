"""First stage: all that an interpreter on the far side is told on its command line.

Contract: argv[1] is the session's nonce.  Everything below this docstring is the text behind ``-c``; it is compiled at
every start, so it is short.  It greets on stdout with one line ::

    =NONCE<hello PROTOCOL HEXVERSION MAGIC TTY SOCKET MACHINE

(also on a Python too old to do more, so that the near side can say so; MACHINE is the kernel's boot_id, or - where it is of no use
or not to be had), reads from stdin one line and the worker ::

    =NONCE>worker ENCODING SIZE INDEX LANE OWN EARLY WORKERS
    SIZE bytes

(ENCODING is raw or base64).  From INDEX on the worker is a marshalled dict, which has ``(start, stop)`` for each module: before that
lies its marshalled code, or its source.  The module "" (boot.py) is executed, with these bytes as ``w``, that dict as ``i``, the nonce
as ``n`` and that line's words as ``t``; nothing that comes behind the worker is read.  While it is on its way what it will need is
imported.  End of input before that means that nobody wants it: it leaves.
"""

import posix, sys
n = sys.argv[1]
try:
    from _frozen_importlib_external import MAGIC_NUMBER as m
    m = m.hex()
except ImportError:
    m = ""
s = posix.fstat(0).st_mode >> 12 == 12
b = "-"
if not s:
    try:
        f = posix.open("/proc/sys/kernel/random/boot_id", 0)
        b = posix.read(f, 36).decode() or b
        posix.close(f)
    except OSError:
        pass
posix.write(1, ("=%s<hello 1 %x -%s %d %d %s\n" % (n, sys.hexversion, m, posix.isatty(0) or posix.isatty(1), s, b)).encode())
try:
    import _ctypes, faulthandler, select
except ImportError:
    pass
d = b""
while b"\n" not in d:
    c = posix.read(0, 4096)
    if not c:
        posix._exit(0)
    d += c
t, _, d = d.partition(b"\n")
t = t.decode().split()
w = bytearray(int(t[2]))
z = len(d)
w[:z] = d
d = memoryview(w)
while z < len(w):
    c = posix.readv(0, [d[z:]])
    if not c:
        posix._exit(0)
    z += c
import marshal
if t[1] == "base64":
    import binascii
    w = binascii.a2b_base64(w)
w = memoryview(w)
i = marshal.loads(w[int(t[3]):])
c = w[slice(*i[""])]
exec(bytes(c) if c[:1] == b'"' else marshal.loads(c))
