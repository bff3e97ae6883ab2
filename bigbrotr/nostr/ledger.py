"""What a walk has said of its span: proofs, gaps, and what it takes back."""

from collections.abc import Iterable

from bigbrotr.models.coverage import Gap, How, Proof, Span, merge, second_of, uncovered
from bigbrotr.nostr.questions import GapReason, Progress


class ProofLedger:
    """Collects proofs and gaps until they are handed out, and remembers what was."""

    def __init__(self) -> None:
        self.doubts: dict[int, tuple[GapReason, str]] = {}  # seconds that nothing proves
        self._proven: list[Proof] = []
        self._gaps: list[Gap] = []
        self._retracted: list[Span] = []
        self._told: list[Span] = []  # what was handed out: proven ...
        self._given_up: list[Span] = []  # ... or gaps

    def prove(self, span: Span, how: How = How.PAGING) -> None:
        """Adds a proof, unless the span is empty."""
        if span.since < span.until:
            self._proven.append(Proof(span, how))

    def give_up(self, gap: Gap) -> None:
        """Adds a gap."""
        self._gaps.append(gap)

    def doubt(self, seconds: Iterable[int], reason: GapReason, words: str) -> None:
        """Proves nothing of seconds from now on: they become gaps."""
        self.doubts |= dict.fromkeys(seconds, (reason, words))

    def take_back_proofs(self) -> None:
        """Takes back all proofs, those that were handed out as well."""
        self._retracted += self._told
        self._told, self._proven = [], []

    def take_back_gaps(self) -> None:
        """Takes back all gaps and doubts."""
        self._retracted += self._given_up
        self._given_up, self._gaps, self.doubts = [], [], {}

    def not_given_up(self, wanted: Span) -> list[Span]:
        """Returns the parts of a span that are no gaps."""
        return uncovered(wanted, self._given_up + [gap.span for gap in self._gaps])

    def hand_out(self) -> Progress:
        """Returns what has become certain since the last time."""
        proven, gaps, retracted = self._proven, self._gaps, self._retracted
        self._proven, self._gaps, self._retracted = [], [], []
        if self.doubts:
            proven, lost = self._without_doubts(proven)
            gaps = gaps + lost
        self._told = merge([*self._told, *(proof.span for proof in proven)])
        self._given_up = merge([*self._given_up, *(gap.span for gap in gaps)])
        return Progress(proven, gaps, retracted)

    def _without_doubts(self, proofs: list[Proof]) -> tuple[list[Proof], list[Gap]]:
        """Returns proofs but for the seconds that nothing proves, and these as gaps."""
        left: list[Proof] = []
        gaps: list[Gap] = []
        for span, how in proofs:
            doubted = sorted(t for t in self.doubts if span.since <= t < span.until)
            left += [Proof(rest, how) for rest in uncovered(span, map(second_of, doubted))]
            gaps += [Gap(second_of(t), *self.doubts[t]) for t in doubted]
        return left, gaps
