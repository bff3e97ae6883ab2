"""New ground: where a walk meets nothing but new events, the next page is taken to be such, too."""

ENOUGH = 4  # pages of nothing but new events, one after the other, for the first guess


class NewGround:
    """Says whether to store a page without looking first which of its events are archived.

    A guess that is right saves one statement of six, and comparing each event with the archive. One
    that is wrong has a page copied in vain: each makes the next one take twice as many new pages.
    """

    def __init__(self) -> None:
        self._pages = 0  # of nothing but new events since the last one that was not
        self._enough = ENOUGH

    @property
    def is_new(self) -> bool:
        """Whether the next page is expected to be new."""
        return self._pages >= self._enough

    def note(self, *, is_new: bool) -> None:
        """Takes note of what a page was."""
        if is_new:
            self._pages += 1
            return
        if self.is_new:
            self._enough *= 2
        self._pages = 0
