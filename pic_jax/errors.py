"""The errors that the command line turns into one line and an exit code."""


class PicJaxError(Exception):
    """Something named in the message is wrong with a file, a model or a run (exit code 1)."""


class ConfigError(PicJaxError):
    """A setting or an argument is wrong (exit code 2). The message names key, value and what is valid."""


class RunInterruptedError(PicJaxError):
    """The machine is going away: a checkpoint has been saved, and the same command goes on from it."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# Exit code of `RunInterruptedError` (EX_TEMPFAIL of sysexits.h): launchers start the same command again.
EXIT_RESTART = 75
# Exit code of a process that has lost another one of its job: also that of JAX, which aborts (128 + SIGABRT).
EXIT_LOST = 134
