"""The pages about the archive itself: what it keeps and shows, and how to take it home."""

from bigbrotr.models.policy import WORDS, Reason, View
from bigbrotr.reads import policy, status
from bigbrotr.serve.pages.page import Ask, Page


async def page(ask: Ask) -> Page:
    """What is archived, by which policy, and whom to write to."""
    given = await policy.rules(ask.pool)
    rules = []
    for reason, words in WORDS.items():
        if reason is Reason.ERASED:
            continue
        if given is None:
            rule = "shown: nothing has been judged yet"
        elif given.erases & reason:
            rule = "erased"
        elif given.archive & reason:
            rule = "hidden"
        elif given.current & reason:
            rule = f"hidden, but for the view {View.ARCHIVE.value}"
        else:
            rule = "shown"
        rules.append((words, rule))
    return Page(
        "about.html",
        {
            "found": await status.overview(ask.pool),
            "rules": rules,
            "relay": ask.settings.relay,
            "public_url": ask.settings.public_url,
        },
        max_age_s=300,
    )


async def data(ask: Ask) -> Page:
    """How programs read the archive, and how to take it home."""
    url = (ask.settings.public_url or f"http://{ask.settings.listen}").rstrip("/")
    return Page(
        "data.html",
        {"url": url, "relay": ask.settings.relay, "relay_url": url.replace("http", "ws", 1)},
        max_age_s=300,
    )
