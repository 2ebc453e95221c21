"""Sets the call process's resource limits.

Contract: far side, standard library only, Python 3.8+.  ``apply({name: (soft, hard)})`` takes the names of
``resource.RLIMIT_*`` without that prefix, and values in the units of setrlimit(2); None leaves a value as it is.
"""


class CannotEnforce(Exception):
    """A limit that was asked for cannot be set here."""


def apply(rlimits: "dict[str, tuple[int | None, int | None]]") -> None:
    """Set every limit or raise :class:`CannotEnforce`, which names the one that could not be set."""
    if not rlimits:
        return
    import resource

    for name, (soft, hard) in rlimits.items():
        number = getattr(resource, "RLIMIT_" + name, None)
        if number is None:
            raise CannotEnforce("this system has no RLIMIT_%s" % name)
        have_soft, have_hard = resource.getrlimit(number)
        wanted = (have_soft if soft is None else soft, have_hard if hard is None else hard)
        try:
            resource.setrlimit(number, wanted)
        except (ValueError, OSError) as error:
            raise CannotEnforce(
                "RLIMIT_%s cannot be set to %d:%d, the far side's hard limit is %d: %s" % (name, *wanted, have_hard, error)
            ) from None
