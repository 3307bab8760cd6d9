"""The one exception that is shown to a user as a sentence, without a traceback."""


class UserError(Exception):
    """A user's mistake: one sentence that says what is wrong, where, and what to do."""
