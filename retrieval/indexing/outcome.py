"""The result of a build and its summary."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from retrieval.labels import printable
from retrieval.storage.manifest import SKIPPED_LISTED, Manifest, Skipped

REASONS = 5  # reasons for skipping that a summary lists


@dataclass(frozen=True)
class Outcome:
    """The result of a finished build."""

    manifest: Manifest  # as published
    already_done: bool  # the gallery has not changed since it was built
    seconds: float
    bytes: int  # size of the snapshot
    replaced: Manifest | None = None  # published before, if anything was
    maps: tuple[str, ...] = ()  # computed by this run

    def to_json(self) -> dict[str, object]:
        """Return what the builder prints with `--json`."""
        manifest, changes = self.manifest, self.manifest.changes
        return {
            "gallery": manifest.gallery,
            "pictures": manifest.pictures,
            "embedded": 0 if self.already_done else changes.embedded,
            "reused": manifest.pictures if self.already_done else changes.reused,
            "skipped": manifest.skipped,
            "ignored": sum(manifest.ignored.values()),
            "removed": 0 if self.already_done else changes.removed,
            "seconds": round(self.seconds, 1),
            "bytes": self.bytes,
        }


def summary(outcome: Outcome) -> str:
    """Return the summary of a build that is shown to the user."""
    manifest, changes = outcome.manifest, outcome.manifest.changes
    if outcome.already_done:
        added = f"maps added in {outcome.seconds:.1f} s, nothing else to do" if outcome.maps else "nothing to do"
        todo = f"{added}, {manifest.pictures:,} images were indexed with {manifest.model} at {manifest.created}."
        lines = [f"{manifest.gallery}: {todo}"]
    else:
        rate = f", {changes.embedded / max(outcome.seconds, 1e-9):.1f} images/s" if changes.embedded else ""
        lines = [
            f"{manifest.gallery}: {manifest.pictures:,} images indexed with {manifest.model} "
            f"({changes.embedded:,} embedded now, {changes.reused:,} reused, {changes.removed:,} removed)",
            f"files:    {accounts(manifest)}",
            f"time:     {outcome.seconds:.1f} s{rate}",
            f"on disk:  {outcome.bytes / 1e6:,.1f} MB ({outcome.bytes:,} bytes)",
        ]
        lines += [f"note:     {printable(note)}" for note in manifest.notes]
    if outcome.maps:
        lines.append(f"maps:     {', '.join(outcome.maps)}")
    if old := outcome.replaced:
        lines.append(f"replaced: the index of {old.pictures:,} images with {old.model} of {old.created}")
    if not outcome.already_done:
        shown = manifest.skipped_pictures[:20]
        lines += [f"  skipped {printable(each.id)}: {printable(each.reason)}" for each in shown]
        if manifest.skipped > 20:
            lines.append(f"  ... and {manifest.skipped - 20:,} more; the first {SKIPPED_LISTED:,} are in manifest.json")
    return "\n".join(lines)


def accounts(manifest: Manifest) -> str:
    """Return how the files or rows of a gallery add up, in one line."""
    why = f" ({reasons(manifest.skipped_pictures)})" if manifest.skipped_pictures else ""
    ignored = sum(manifest.ignored.values())
    kinds = f" ({', '.join(f'{count:,} {suffix}' for suffix, count in manifest.ignored.items())})" if ignored else ""
    total = manifest.pictures + manifest.skipped + ignored
    return printable(
        f"{total:,} = {manifest.pictures:,} indexed + {manifest.skipped:,} skipped{why} + {ignored:,} ignored{kinds}"
    )


def reasons(skipped: Iterable[Skipped]) -> str:
    """Return the most frequent reasons for skipping, with their counts."""
    counted = Counter(each.reason for each in skipped)
    listed = [f"{count} x {reason.rstrip('.')}" for reason, count in counted.most_common(REASONS)]
    rest = sum(counted.values()) - sum(count for _, count in counted.most_common(REASONS))
    return "; ".join(listed + ([f"{rest} x other reasons"] if rest else []))
