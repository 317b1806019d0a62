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
    already_done: bool  # the index was complete before
    added: int  # images indexed by this run
    resumed_from: int  # images indexed by earlier runs
    seconds: float  # duration of this run
    replaced: Manifest | None = None  # published before, if anything was
    maps: tuple[str, ...] = ()  # computed by this run


def summary(outcome: Outcome) -> str:
    """Return the summary of a build that is shown to the user."""
    manifest = outcome.manifest
    maps = f"maps:     {', '.join(outcome.maps)}"
    if outcome.already_done:
        todo = f"maps added in {outcome.seconds:.1f} s, nothing else to do" if outcome.maps else "nothing to do"
        return (
            f"{manifest.gallery}: {todo}, {manifest.pictures:,} images were indexed "
            f"with {manifest.model} at {manifest.created}."
        ) + (f"\n{maps}" if outcome.maps else "")
    why = f" ({reasons(manifest.skipped_pictures)})" if manifest.skipped_pictures else ""
    lines = [
        f"{manifest.gallery}: {manifest.pictures:,} images indexed with {manifest.model} "
        f"({outcome.added:,} now, {outcome.resumed_from:,} before)",
        f"skipped:  {manifest.skipped:,}{why}",
        f"time:     {outcome.seconds:.1f} s, {outcome.added / max(outcome.seconds, 1e-9):.1f} images/s",
        f"on disk:  {manifest.bytes / 1e6:,.1f} MB ({manifest.bytes:,} bytes)",
        maps,
    ]
    if old := outcome.replaced:
        lines.append(f"replaced: the index of {old.pictures:,} images with {old.model} of {old.created}")
    lines += [f"  skipped {printable(each.id)}: {printable(each.reason)}" for each in manifest.skipped_pictures[:20]]
    if manifest.skipped > 20:
        lines.append(f"  ... and {manifest.skipped - 20:,} more; the first {SKIPPED_LISTED:,} are in manifest.json")
    return "\n".join(lines)


def reasons(skipped: Iterable[Skipped]) -> str:
    """Return the most frequent reasons for skipping, with their counts."""
    counted = Counter(each.reason for each in skipped)
    listed = [f"{count} x {reason.rstrip('.')}" for reason, count in counted.most_common(REASONS)]
    rest = sum(counted.values()) - sum(count for _, count in counted.most_common(REASONS))
    return "; ".join(listed + ([f"{rest} x other reasons"] if rest else []))
