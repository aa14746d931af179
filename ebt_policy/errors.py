"""The one exception for mistakes that a user can correct."""


class UserError(Exception):
    """Bad input, in the user's terms: what was expected, what was found and what to do.

    The command line prints the message alone; a traceback would only hide it.
    """
