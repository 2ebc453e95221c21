"""First stage: all that an interpreter on the far side is told on its command line.

Contract: argv[1] is the session's nonce.  Everything below this docstring is the text behind ``-c``.  It greets on
stdout with one line ::

    =NONCE<hello PROTOCOL HEXVERSION MAGIC PID TTY

(also on a Python too old to do more, so that the near side can say so), reads the worker from stdin ::

    =NONCE>worker
    BASE64 ...
    =NONCE>.

which is a marshalled list of (module name, code or source), builds the modules under their real names and hands over to
``supervisor.main(nonce, bytes read too far)``.  End of input before the last line means that nobody wants it: it leaves.
"""

import os
import sys

n = sys.argv[1]
try:
    import _frozen_importlib_external as e

    m = "".join("%02x" % b for b in bytearray(e.MAGIC_NUMBER))
except ImportError:
    m = "-"
h = "=%s<hello 1 %x %s %d %d\n" % (n, sys.hexversion, m, os.getpid(), os.isatty(0) or os.isatty(1))
os.write(1, h.encode())
f = ("=%s>worker" % n).encode()
g = ("=%s>." % n).encode()
d = b""
while g not in d:
    c = os.read(0, 65536)
    if not c:
        os._exit(0)
    d += c
w, d = d.split(g, 1)
import binascii  # noqa: E402
import marshal  # noqa: E402

for k, c in marshal.loads(binascii.a2b_base64(w.split(f, 1)[1])):
    x = sys.modules[k] = type(sys)(k)
    x.__package__ = "deliveryboy_ng.worker"
    if k == x.__package__:
        p = x
        p.__path__ = []
    setattr(p, k.rpartition(".")[2], x)
    if isinstance(c, str):
        c = compile(c, "<%s>" % k, "exec", dont_inherit=True)
    exec(c, x.__dict__)
sys.modules["deliveryboy_ng.worker.supervisor"].main(n.encode(), d.partition(b"\n")[2])
