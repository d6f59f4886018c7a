class InputError(ValueError):
    """What the user gave cannot be used. The message says what, where and the fix, in that order.

    The command line prints it without a traceback and exits with 2.
    """
