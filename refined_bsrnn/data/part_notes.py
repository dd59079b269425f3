"""Messages about the decisions of `training_parts`: which songs are left out, assumed or added, and why."""

from collections.abc import Mapping, Sequence

from ..errors import first
from ..recipe import DataSpec
from .activity import SEGMENT_SECONDS
from .parts import SplitOther, TrackParts, Usable, assumed_absent
from .pools import Pools, joined_targets, related_target


def of_split_other(split: SplitOther) -> list[str]:
    if not split.n_tracks:
        return []
    return [
        f"{split.n_tracks} tracks: other is the sum of their {', '.join(split.names)} and is drawn as these "
        "(data.define.other says it otherwise)."
    ]


def of_absent(songs: Sequence[TrackParts], targets: Sequence[str], spec: DataSpec) -> list[str]:
    """The targets that songs are assumed not to contain; the names in ``data.absent`` that are no target."""
    assumed, notes = assumed_absent(songs, targets, spec), []
    if idle := sorted({*assumed, *(spec.absent or ())} - {*targets}):
        notes.append(f"data.absent names {first(idle)}, which is no target of this run: it changes nothing.")
    for target in assumed:
        count = sum(not song.is_solo and target in song.absent for song in songs)
        if count:
            notes.append(
                f"ONLY SOLOS HAVE {target!r}: THE {count} SONGS ARE TAKEN TO HOLD NONE, and solos are mixed into them. "
                "If songs may hold it, set data.absent=[] and give them a stem of it."
            )
    return notes


def missing_stems(songs: Sequence[TrackParts], gaps: Mapping[int, Sequence[str]]) -> str:
    return (
        f"{len(gaps)} of {len(songs)} tracks lack a stem ({_named_gaps(songs, gaps)}). data.missing_stem=mask "
        "trains on what they have, =skip leaves them out, =silent takes the missing stem as silence."
    )


def of_usable(usable: Usable, songs: Sequence[TrackParts], targets: Sequence[str], spec: DataSpec) -> list[str]:
    """The number of songs that lack a stem, and how training uses them."""
    notes = []
    if usable.left_out:
        lacking = (t for i in usable.left_out for t in targets if not songs[i].target_parts.get(t))
        named = ", ".join(dict.fromkeys(lacking))
        hint = f"data.absent=[{named}] says that they hold none, data.missing_stem=silent takes it as silence."
        if spec.missing_stem == "skip":
            hint = "data.missing_stem=mask trains on what they have, =silent takes the missing stem as silence instead."
        gaps = _named_gaps(songs, usable.left_out)
        n_left_out = len(usable.left_out)
        notes.append(f"{n_left_out} of {len(songs)} tracks lack a stem and are left out ({gaps}). {hint}")
    if usable.lacking:
        silent = spec.missing_stem == "silent"
        done = "which is taken as silence" if silent else "and count for those that they have"
        gaps = _named_gaps(songs, usable.lacking)
        notes.append(f"{len(usable.lacking)} of {len(songs)} tracks lack a stem, {done} ({gaps}).")
    return notes


def of_incomplete(songs: Sequence[TrackParts], gaps: Mapping[int, Sequence[str]]) -> list[str]:
    if not gaps:
        return []
    return [
        f"{len(gaps)} of {len(songs)} tracks have only some of the stems that a target is made of, and mixtures that "
        f"hold more than their stems ({_named_gaps(songs, gaps)}). If the others are in there, leave these tracks out."
    ]


def of_active(songs: Sequence[TrackParts], spec: DataSpec) -> str:
    """The number of active segments, and of parts without one."""
    active = [places for song in songs for places in (song.active or {}).values()]
    n_parts = sum(len(song.parts) for song in songs)
    return (
        f"{sum(map(len, active))} active segments of {SEGMENT_SECONDS:g} s (data.energy={spec.energy}); "
        f"{n_parts - len(active)} of {n_parts} parts have none."
    )


def _named_gaps(songs: Sequence[TrackParts], gaps: Mapping[int, Sequence[str]]) -> str:
    return first([f"{songs[i].track.name}: {', '.join(names)}" for i, names in gaps.items()], separator="; ")


# --- songs that no example reads --------------------------------------------------------------------------------------


def of_unread(reasons: Mapping[str, Sequence[str]], n_songs: int) -> list[str]:
    """``reasons``: reason → the names of the songs."""
    return [f"{len(names)} of {n_songs} tracks are left out: {why} ({first(names)})." for why, names in reasons.items()]


def why_unread(song: TrackParts, targets: Sequence[str], spec: DataSpec) -> str:
    """The reason why no example reads any part of a song."""
    if why := why_refused(song, targets, spec):
        return why
    if song.active is not None and not song.active:
        return f"no part of them is active for {SEGMENT_SECONDS:g} s (data.excerpts=active)"
    name = song.parts[0]
    if song.is_other_solo:
        return f"data.add_others=0 adds no solo of {name}"
    if song.is_named_solo:
        return f"no song is known to be without {name}; data.absent=[{name}] says that those without its stem are"
    unknown = [target for target in targets if target not in song.target_parts]
    if unknown:
        return f"{name} may hold {', '.join(unknown)}; data.absent=[{', '.join(unknown)}] says that it does not"
    return f"no mixture can take their {', '.join(song.parts)}"


def why_refused(song: TrackParts, targets: Sequence[str], spec: DataSpec) -> str:
    """The reason why a solo of no target may not be added to mixtures; empty if it may."""
    if not song.is_other_solo:
        return ""
    name = song.parts[0]
    if spec.stems and name not in spec.stems:
        return f"{name} is not among data.stems, which make the mixture"
    target = related_target(name, targets, spec)
    if target is not None:
        return (
            f"{name} may be a part of {target}, so it cannot stand beside it; data.define={{{target}: "
            f"[{', '.join(dict.fromkeys([*spec.stems_of(target), name]))}]}} makes it one"
        )
    return ""


# --- solos that are added ---------------------------------------------------------------------------------------------


def of_added(songs: Sequence[TrackParts], targets: Sequence[str], spec: DataSpec) -> list[str]:
    """The solos that are mixed into songs, and the songs."""
    pools, notes = Pools(songs, spec), []
    leads = pools.all_leads()
    for target in targets:
        if spec.add_targets and any(pools.target(target, lead) for lead in leads):
            notes.append(
                f"{target}: a recording is added to {spec.add_targets:.0%} of the examples of songs that hold none "
                "(data.add_targets); the others teach silence."
            )
    counts: dict[str, int] = {}
    for song in songs:
        if song.is_other_solo and pools.leads is not None and any(song.parts[0] not in lead.parts for lead in leads):
            counts[song.parts[0]] = counts.get(song.parts[0], 0) + 1
    if counts and spec.add_others:
        named = ", ".join(f"{count} {name} ({_belonging(name, leads)})" for name, count in counts.items())
        notes.append(
            f"solos of no target: {named}: one is added to {spec.add_others:.0%} of the examples (data.add_others)."
        )
    return notes


def _belonging(name: str, leads: Sequence[TrackParts]) -> str:
    """``as part of other`` or ``as no target``."""
    joined = dict.fromkeys(t for lead in leads if name not in lead.parts for t in joined_targets(name, lead))
    return f"as part of {', '.join(joined)}" if joined else "as no target"
