"""First stage: all that an interpreter on the far side is told on its command line.

Contract: argv[1] is the session's nonce.  Everything below this docstring is the text behind ``-c``; it is compiled at
every start, so it is short.  It greets on stdout with one line ::

    =NONCE<hello PROTOCOL HEXVERSION MAGIC TTY SOCKET

(also on a Python too old to do more, so that the near side can say so), reads from stdin one line and the worker ::

    =NONCE>worker ENCODING SIZE LANE OWN EARLY WORKERS
    SIZE bytes

(ENCODING is raw or base64), a marshalled dict of module names and their marshalled code or source, and executes its entry
"" (boot.py) with that dict as ``w``, the nonce as ``n``, that line's words as ``t`` and the bytes read too far as
``d``.  While the worker is on its way it imports what that will need.  End of input before that means that nobody wants it: it leaves.
"""

import posix, sys
n = sys.argv[1]
try:
    from _frozen_importlib_external import MAGIC_NUMBER as m
    m = m.hex()
except ImportError:
    m = ""
s = posix.fstat(0).st_mode >> 12 == 12
posix.write(1, ("=%s<hello 1 %x -%s %d %d\n" % (n, sys.hexversion, m, posix.isatty(0) or posix.isatty(1), s)).encode())
try:
    import _ctypes, faulthandler, select
except ImportError:
    pass
d = t = b""
z = 1 << 30
while len(d) < z:
    c = posix.read(0, 262144)
    if not c:
        posix._exit(0)
    d += c
    if not t and b"\n" in d:
        t, c, d = d.partition(b"\n")
        t = t.decode().split()
        z = int(t[2])
import marshal
w, d = d[:z], d[z:]
if t[1] == "base64":
    import binascii
    w = binascii.a2b_base64(w)
w = marshal.loads(w)
c = w.pop("")
exec(c if isinstance(c, str) else marshal.loads(c))
