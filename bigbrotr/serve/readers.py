"""Keeps one reader of each sort for a pool: what one has learned of the database serves all."""

from weakref import WeakKeyDictionary

from bigbrotr.core.pool import Pool
from bigbrotr.models.policy import View
from bigbrotr.reads.at_risk import AtRiskReads
from bigbrotr.reads.event_lines import EventLines
from bigbrotr.reads.policy import Settled
from bigbrotr.reads.relay_list import RelayList

_events: WeakKeyDictionary[Pool, dict[View, EventLines]] = WeakKeyDictionary()
_relays: WeakKeyDictionary[Pool, RelayList] = WeakKeyDictionary()
_at_risk: WeakKeyDictionary[Pool, AtRiskReads] = WeakKeyDictionary()


def events_of(pool: Pool, view: View = View.CURRENT) -> EventLines:
    """Reads events for strangers; what the planner knows of a database is found once."""
    views = _events.setdefault(pool, {})
    if (found := views.get(view)) is None:
        found = views[view] = EventLines(pool, view, settled=Settled(pool))
    return found


def relays_of(pool: Pool) -> RelayList:
    """Reads pages of relays; what is shown of one is read once a moment."""
    if (found := _relays.get(pool)) is None:
        found = _relays[pool] = RelayList(pool)
    return found


def at_risk_of(pool: Pool) -> AtRiskReads:
    """Reads what is at risk; the sums are made once a minute."""
    if (found := _at_risk.get(pool)) is None:
        found = _at_risk[pool] = AtRiskReads(pool)
    return found
