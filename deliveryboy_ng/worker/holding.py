"""What a call process is held to: limits, and what keeps it from its supervisor and all else.

Contract: far side, standard library only, Python 3.8+.
"""

from . import preparing, records, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def limiter(setup: "dict[str, Any]", box: "list[Any]") -> "Any":
    """The function that sets the limits: counted from what this process has now, its packed box included.

    Later that is replaced by what was in it; a call that is limited before needs room for both.
    """
    from . import limits

    asked = setup["limits"]

    # That is not here yet.
    large = records.large(box[records.LARGE])
    given = sum(map(len, box)) + large if setup["guard"] else 0

    try:
        resident, shared = system.memory_of_this_process()[:2]
    except OSError:
        resident = shared = 0

    def limit() -> "list[str]":
        try:
            return limits.apply(asked, setup["grace"], resident - shared + (0 if given else large), given)
        except limits.CannotEnforce as error:
            raise preparing.Refusal(str(error)) from None

    return limit


def hold(setup: "dict[str, Any]", confinement: "dict[str, Any] | None", installed: "list[str]") -> "list[str]":
    from . import confine

    kind = setup["guard"]
    try:
        if setup["beside"] > 1 or setup["template"]:
            confine.check_scopes()
        if confinement is None:
            return confine.guard(kind)
        confined = confine.Confinement(confinement, kind, installed)
        applied = confined.apply()
        if setup["template"]:
            confined.leave()
        return applied
    except (confine.Unavailable, OSError) as error:
        raise preparing.Refusal(str(error)) from None


def clear_environment(confinement: "dict[str, Any]") -> "list[str]":
    from . import confine

    try:
        confine.clear_environment(confinement["env"])
    except OSError as error:
        if not confinement["best_effort"]:
            raise preparing.Refusal("env: the environment cannot be cleared there: %s" % error) from None
        return []
    return ["environment cleared"]
