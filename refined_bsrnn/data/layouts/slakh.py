"""Slakh2100: rendered MIDI, a file per instrument."""

from collections.abc import Mapping, Sequence
from typing import Any

from .collection import Instruments, listed_track, read_metadata, stem_facts
from .listing import File, Layout, Listing, existing, is_audio, track_folders, visible, why_holds


def slakh(splits: Sequence[str], root: str, classes: Mapping[str, Any] | None = None) -> Listing:
    """Slakh2100: ``root/{train,validation,test}/Track00001/`` with ``mix.flac``, ``stems/S00.flac``, ``metadata.yaml``.

    The name of a stem is its instrument class (``Synth Lead`` → ``synth_lead``), or the name that ``classes`` gives it:
    ``{keys: [Piano, Organ]}``. Stems that the metadata list as not rendered have no file; they are counted.
    """
    listing, instruments = Listing(), Instruments("classes", classes)
    n_unrendered = 0
    for split, track in track_folders(existing(root, "slakh"), splits, listing):
        where = f"{split}/{track.name}"
        metadata = read_metadata(track / "metadata.yaml", where, listing)
        if metadata is None:
            continue
        files: dict[str, list[File]] = {}
        folder = track / str(metadata.get("audio_dir", "stems"))
        by_name = {p.stem: p for p in reversed(visible(folder)) if is_audio(p)} if folder.is_dir() else {}
        stems = stem_facts(metadata)
        instruments.unnamed += [f"{track.name}/{p.name}" for p in sorted(by_name.values()) if p.stem not in stems]
        for key, stem in sorted(stems.items()):
            if key in by_name:
                name = instruments.name("Drums" if stem.get("is_drum") else str(stem.get("inst_class", key)))
                files.setdefault(name, []).append(File(by_name[key]))
            elif stem.get("audio_rendered", True):
                text = f"{track}: metadata.yaml names the stem {key}, which has no file."
                listing.add_finding("missing_file", where, text)
            else:
                n_unrendered += 1
        mixes = sorted(p for p in track.glob("mix.*") if is_audio(p))
        listing.tracks.append(listed_track(track.name, split, track, files, mixes))
    if n_unrendered:
        listing.notes.append(f"{n_unrendered} stems of {root} were never rendered, as their metadata.yaml say.")
    instruments.note_unread(listing, root)
    return listing


SLAKH = Layout(slakh, lambda root: why_holds(root, "*/metadata.yaml", "*/*/metadata.yaml"))
