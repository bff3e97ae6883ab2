"""What `import` does with the folder of a snapshot."""

import argparse
from pathlib import Path

from bigbrotr.cli.output import say
from bigbrotr.cli.place import Place
from bigbrotr.cli.progress import STOPPED, Progress, until_stopped
from bigbrotr.core.brotr import Brotr
from bigbrotr.errors import ConfigError
from bigbrotr.transfer import manifest as manifests
from bigbrotr.transfer import parquet
from bigbrotr.transfer.importing import Importer
from bigbrotr.transfer.manifest import NAME
from bigbrotr.transfer.snapshot_import import Imported, SnapshotImporter, Step

DAMAGED = 2  # the exit code, as for other files


def check_snapshot(folder: Path) -> None:
    """Sees that a folder can be imported.

    Raises:
        ConfigError: it is no snapshot; or pyarrow is missing.
    """
    parquet.require()
    if manifests.load(folder) is None:
        raise ConfigError(f"{folder} is no snapshot: there is no {NAME} in it")


def name_of(folder: Path) -> str:
    """What a source is called unless it has a name."""
    return folder.resolve().name


async def import_snapshot(
    brotr: Brotr, there: Place, importer: Importer, name: str, options: argparse.Namespace
) -> int:
    """Imports a snapshot, and says what was in it; returns the exit code."""
    progress = Progress()

    def tell(step: Step) -> None:
        progress.say(lambda: f"{name}: {step.words} ({step.share:.0%})")

    work = SnapshotImporter(
        brotr,
        importer,
        Path(name),
        options.name or name_of(Path(name)),
        takes_local=there.config.networks.local.enabled,
        trusts=options.trust_coverage,
        on_step=tell,
    )
    try:
        found = await until_stopped(work.run)
    finally:
        progress.end()
    if found is None:
        say(f"{name}: not finished; import it again, and it goes on with what is missing")
        return STOPPED
    for words in _words(name, found, is_trusted=options.trust_coverage):
        say(words)
    return DAMAGED if found.damage or found.outcome.invalid else 0


def _words(name: str, found: Imported, *, is_trusted: bool) -> list[str]:
    outcome = found.outcome
    known = outcome.events - outcome.new
    words = (
        f"{name}: {outcome.events:,} events: {outcome.new:,} new, {known:,} archived already;"
        f" {found.pairs:,} new pairs of event and relay, {found.dropped:,} that relays have dropped"
    )
    said = [words]
    if found.proofs:
        said.append(
            f"{name}: what it says is proven of relays is noted as its word"
            + (f", and counts as proven here now ({found.trusted:,} rows)" if is_trusted else "")
        )
    for reason, count in sorted(outcome.invalid.items()):
        said.append(f"{name}: {count:,} rows are no valid events ({reason}), and were left out")
    if found.damage is not None:
        said.append(f"{name}: not all events can be read ({found.damage})")
    if found.local:
        said.append(
            f"{name}: {found.local:,} rows speak of relays in local networks, which are yours to"
            " name: they were left out (see [networks.local])"
        )
    if found.unusable:
        said.append(f"{name}: {found.unusable:,} rows cannot be so, and were left out")
    return said
