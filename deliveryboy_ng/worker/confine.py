"""Keeps a call from harming those that look after it.

Contract: far side, standard library only, Python 3.8+.  Runs in the call process, while it has one thread.
"""

import sys

from . import system

PR_SET_NO_NEW_PRIVS = 38
# landlock(7); the numbers are the same on every architecture.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION = 1
_SCOPE_SIGNAL = 1 << 1
_FIRST_WITH_SCOPES = 6


class Unavailable(Exception):
    """This system does not offer it."""


def keep_signals_inside() -> None:
    """From here on this process and all below it can signal nobody else: not the supervisor, nor the user's other processes.

    Without CAP_SYS_ADMIN that also means that set-uid programs gain no rights any more.

    :raises Unavailable: before Linux 6.12, or where Landlock is not switched on
    """
    if not sys.platform.startswith("linux"):
        raise Unavailable("that system has no Landlock")
    version = system.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < _FIRST_WITH_SCOPES:
        raise Unavailable("Landlock there has version %d, and signals can be scoped from 6 on (Linux 6.12)" % max(0, version))
    # struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped
    ruleset = system.syscall(_CREATE_RULESET, bytes(16) + _SCOPE_SIGNAL.to_bytes(8, sys.byteorder), 24, 0)
    if ruleset < 0:
        raise Unavailable("Landlock refuses a ruleset")
    if system.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
        system.prctl(PR_SET_NO_NEW_PRIVS, 1)
        if system.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            raise Unavailable("Landlock refuses to restrict the call")
    import posix

    posix.close(ruleset)
