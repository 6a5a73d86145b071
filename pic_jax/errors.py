"""The two errors a user can cause; the command line turns them into one line and an exit code."""


class PicJaxError(Exception):
    """Something named in the message is wrong with a file, a model or a run (exit code 1)."""


class ConfigError(PicJaxError):
    """A setting or an argument is wrong (exit code 2). The message names key, value and what is valid."""
