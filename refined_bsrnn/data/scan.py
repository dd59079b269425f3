"""Sources → tracks: reads every file's header and reports problems as findings."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets

from ..audio import AudioInfo, length_of, open_audio
from ..console import printable
from ..errors import DataError, UserError, first
from ..recipe import DataSpec, SourceSpec
from ..system import is_unicode
from .decode import content_key, damage_of, decode, decoded_file, lengths_of, of_file, writing
from .layouts.listing import File, Finding, Listed
from .names import MIXTURE, MIXTURE_NAMES, REST
from .sources import Sources, find_sources, list_source, source_name
from .tracks import StemFile, Track, table_of, with_definitions

MAX_LISTED = 8  # problems in one message
PADDED_SECONDS = 0.1  # files of lossy formats may differ by so much; padded sources differ by it without a note
READ_IN_PLACE = (".wav", ".flac", ".aiff", ".aif", ".w64", ".rf64", ".caf", ".au")
READ_FROM_THE_START = (".ogg", ".opus", ".mp3")  # entered only by decoding from the beginning; others are decoded once


@dataclass(frozen=True)
class Scan:
    """The tracks of a recipe's sources, the problems of their names and headers, and notes for the user."""

    sources: Sources
    tracks: list[Track]
    findings: list[Finding]
    notes: list[str]

    def usable(self) -> list[Track]:
        """The tracks; `DataError` with every problem that stops training, if there is one."""
        refuse(self.findings)
        return self.tracks


def refuse(findings: Iterable[Finding]) -> None:
    """`DataError` with the sentences of the findings that stop training."""
    stopping = [finding.text for finding in findings if finding.stops]
    if len(stopping) == 1:
        raise DataError(stopping[0])
    if stopping:
        shown = first(stopping, MAX_LISTED, separator="\n  ")
        raise DataError(f"{len(stopping)} problems with the data:\n  {shown}\nrefined-bsrnn check-data lists all.")


def scan(spec: DataSpec, splits: Sequence[str]) -> Scan:
    """List the sources and read the headers of all files; every problem becomes a finding."""
    sources = find_sources(spec)
    found = Scan(sources, [], [], list(sources.notes))
    listed: list[tuple[Listed, SourceSpec]] = []
    nothing: list[str] = []
    for i, source in enumerate(sources.specs):
        listing = list_source(source, splits, "data.root" if sources.from_root else f"data.sources[{i}]")
        if not listing.tracks and not listing.findings:
            nothing.append(_nothing_found(source, splits))
        found.findings.extend(listing.findings)
        found.notes.extend(listing.notes)
        listed += [(track, source) for track in listing.tracks]
    if len(nothing) == len(sources.specs):
        raise DataError(" ".join(nothing))
    found.notes.extend(nothing)
    listed = _with_mixtures(listed, spec, found.notes)
    opener = _Opener([track for track, _ in listed], spec.decode, found, spec.fit_seconds)
    names: set[tuple[str, str]] = set()
    for track, source in listed:
        made = opener.open(track)
        if made is None:
            continue
        name = _free_name(made, source_name(source), names)
        names.add((made.split, name))
        found.tracks.append(with_definitions(replace(made, name=name, weight=source.weight * track.weight), spec))
    found.tracks.sort(key=lambda t: (splits.index(t.split), t.name))
    found.notes.extend(_not_used([track for track, _ in listed], spec))
    return found


def open_files(paths: Sequence[Path], folder: Path, stem: str) -> list[Track]:
    """Each file as a track with one stem, named by its path below the folder; `DataError` for unreadable files."""
    listed = [Listed(str(path.relative_to(folder)), "train", folder, {stem: (File(path),)}) for path in paths]
    found = Scan(Sources(()), [], [], [])
    opener = _Opener(listed, True, found)
    opened = [opener.open(track) for track in listed]
    refuse(found.findings)
    return [track for track in opened if track is not None]


def _free_name(track: Track, source: str, taken: Collection[tuple[str, str]]) -> str:
    """A name that no other track of the split has: its own, or with the source's name before it, or with a number
    too.
    """
    tried = [track.name, f"{source}: {track.name}"]
    number = 2
    while (track.split, tried[-1]) in taken:
        tried.append(f"{source}: {track.name} ({number})")
        number += 1
    return next(name for name in tried if (track.split, name) not in taken)


def _not_used(tracks: Sequence[Listed], spec: DataSpec) -> list[str]:
    """Notes on files that a definition replaces: a file with the name of a sum that does not contain it."""
    notes = []
    for name in spec.define:
        stems = spec.stems_of(name)
        having = [t.name for t in tracks if name in t.files and name not in stems and set(stems) & set(t.files)]
        if having:
            notes.append(
                f"{len(having)} tracks have a file for {name!r} beside {', '.join(stems)}, whose sum data.define says "
                f"that it is: that file is not used ({first(having)}). Name it in the definition if it is a part."
            )
    return notes


def _with_mixtures(
    listed: Sequence[tuple[Listed, SourceSpec]], spec: DataSpec, notes: list[str]
) -> list[tuple[Listed, SourceSpec]]:
    """Tracks without a mixture get the file with a mixture's name; as a stem it would contain all others again."""
    stems = {*spec.stems, *spec.define, *(stem for name in spec.define for stem in spec.stems_of(name))}
    taken: Counter[str] = Counter()
    result = []
    for track, source in listed:
        likely = [n for n in track.files if n.lower() in MIXTURE_NAMES and n not in stems]
        if MIXTURE not in track.files and likely:
            taken[likely[0]] += 1
            files = {MIXTURE if name == likely[0] else name: files for name, files in track.files.items()}
            track = replace(track, files=files)
        result.append((track, source))
    for name, count in sorted(taken.items()):
        notes.append(f"{count} tracks have no {MIXTURE}; their {name} is taken for it.")
    return result


def _nothing_found(source: SourceSpec, splits: Sequence[str]) -> str:
    root = Path(str(source.options.get("root", "")))
    inside = sorted(p.name for p in root.iterdir())[:8] if root.is_dir() else []
    layout = f"Expected {root.name}/{splits[0]}/<track>/<stem>.wav; " if source.kind == "folder" else ""
    hint = " A source's test_tracks: [...] names tracks to test on." if "train" not in splits else ""
    return (
        f"no tracks in {root} ({source.kind}) for {' or '.join(splits)}. {layout}found "
        f"{', '.join(inside) if inside else 'an empty folder'}.{hint}"
    )


def _in_place(path: Path) -> bool:
    """Whether a file has exact seeking: its format has, and the file has the format that its name says."""
    if path.suffix.lower() not in READ_IN_PLACE:
        return False
    try:
        with open_audio(path) as reader:
            return reader.n_samples is not None
    except UserError:  # a finding when it is opened
        return True


class _Opener:
    """Opens the tracks of a scan and reads the facts of their files; problems become findings of the scan.

    Files without exact seeking are decoded into the cache first; with ``all_lossy``, mp3, ogg and opus too.
    """

    def __init__(self, tracks: Sequence[Listed], all_lossy: bool, found: Scan, fit_seconds: float = 0.0):
        self.findings, self.fit_seconds = found.findings, fit_seconds
        paths = {file.path for track in tracks for files in track.files.values() for file in files}
        slow = sorted(p for p in paths if p.suffix.lower() in READ_FROM_THE_START)
        if slow and not all_lossy:
            found.notes.append(
                f"{len(slow)} of {len(paths)} files are mp3, ogg or opus, of which every excerpt is decoded from the "
                "beginning of the song: slow. data.decode=true decodes them once into the cache."
            )
        known = () if all_lossy else READ_FROM_THE_START
        wanted = sorted(p for p in paths if p.suffix.lower() not in known and p.is_file() and not _in_place(p))
        results = decode([of_file(p) for p in wanted], "decoding what cannot be entered at any place") if wanted else []
        self.copies: dict[Path, Path | UserError] = {  # original → lossless copy in the cache
            path: result if isinstance(result, UserError) else decoded_file(result, "audio")
            for path, result in zip(wanted, results, strict=True)
        }
        # The facts of files whose length only decoding tells, and which are not decoded into the cache.
        self.counted = lengths_of([p for p in slow if p not in self.copies and p.is_file()])

    def open(self, track: Listed) -> Track | None:
        """The track with the facts of its files; None and findings if they cannot be read or disagree."""
        where, before = f"{track.split}/{track.name}", len(self.findings)
        track = replace(track, files={stem: files for stem, files in track.files.items() if files})
        if not track.files:
            if not any(finding.where == where for finding in self.findings):
                text = f"the track {where} in {track.folder} has no audio and is left out."
                self.findings.append(Finding("empty_track", where, text, stops=False))
            return None
        if problem := _name_problem(track):
            self.findings.append(Finding("unreadable", printable(where), problem))
            return None
        infos, damage = self._infos(track)
        lengths = {}
        if not any(finding.stops for finding in self.findings[before:]):
            lengths = {stem: max(infos[f].n_samples for f in files) for stem, files in track.files.items()}
            self._check(track, infos, lengths, damage)
        if any(finding.stops for finding in self.findings[before:]):
            return None
        return self._track(track, infos, lengths.get(MIXTURE, max(lengths.values())))

    def _infos(self, track: Listed) -> tuple[dict[File, AudioInfo], list[str]]:
        """The facts of every file, with the length of the piece that is used, and sentences on what is damaged."""
        where = f"{track.split}/{track.name}"
        infos: dict[File, AudioInfo] = {}
        damage: list[str] = []
        for file in (f for files in track.files.values() for f in files):
            try:
                copy = self.copies.get(file.path, file.path)
                if isinstance(copy, UserError):
                    raise copy
                if isinstance(info := self.counted.get(copy), UserError):
                    raise info
                if info is None:
                    with open_audio(copy) as reader:
                        info = length_of(reader)
                        damage += reader.damage()
                infos[file] = replace(info, n_samples=_piece(file, info)[1])
                if copy != file.path:  # the copy itself is whole
                    found = damage_of(copy)
                    damage += found
                    self.findings += [Finding(damage_kind(text), where, text, stops=False) for text in found]
            except UserError as error:
                self.findings.append(Finding(kind_of(error), where, str(error)))
        return infos, damage

    def _check(
        self, track: Listed, infos: Mapping[File, AudioInfo], lengths: Mapping[str, int], damage: Sequence[str]
    ) -> None:
        """Findings if the files of a track differ in rate or length; allowed differences do not stop training."""
        rates = {info.sample_rate_hz for info in infos.values()}
        if len(rates) > 1:
            by_stem = {stem: [infos[f].sample_rate_hz for f in files] for stem, files in track.files.items()}
            values = {stem: found[0] if len(set(found)) == 1 else found for stem, found in by_stem.items()}
            self._differ("rate", "Hz", values, "Convert them to one rate.", track)
        ends = [max(infos[f].seconds for f in files) for files in track.files.values()]
        if len(rates) > 1 and max(ends) - min(ends) < PADDED_SECONDS:
            return  # only the rate is wrong
        uneven, rate = max(lengths.values()) - min(lengths.values()), max(rates)
        is_lossy = any(file.path.suffix.lower() not in READ_IN_PLACE for file in infos)  # coders add some samples
        allowed = max(PADDED_SECONDS if is_lossy else 0.0, self.fit_seconds)
        if uneven > allowed * rate and not track.padded:
            fit = math.ceil(1000 * uneven / rate) / 1000
            rule = f"Every stem must be as long as its mixture; data.fit_seconds={fit:g} pads or cuts them."
            self._differ("length", "samples", lengths, " ".join([rule, *damage]), track)
        elif uneven > (PADDED_SECONDS * rate if track.padded else 0):
            rule = "Silence follows the shorter ones"
            rule += ", and the longer ones are cut where the mixture ends." if MIXTURE in lengths else "."
            self._differ("length", "samples", lengths, rule, track, stops=False)

    def _differ(
        self, kind: str, unit: str, values: Mapping[str, object], rule: str, track: Listed, stops: bool = True
    ) -> None:
        shown = ", ".join(f"{stem} {value}" for stem, value in values.items())
        text = f"the files of track {track.folder} differ in {unit}: {shown}. {rule}"
        kind = "truncated" if "is cut off" in text else kind
        self.findings.append(Finding(kind, f"{track.split}/{track.name}", text, stops))

    def _track(self, track: Listed, infos: Mapping[File, AudioInfo], n_samples: int) -> Track:
        def piece(file: File) -> StemFile:
            path = Path(str(self.copies.get(file.path, file.path)))
            name = str(path.relative_to(track.folder) if path.is_relative_to(track.folder) else path)
            start = round(file.start_seconds * infos[file].sample_rate_hz)
            return StemFile(name, min(infos[file].n_samples, n_samples), start)

        listed = [file for files in track.files.values() for file in files]
        cut = "".join(f" {f.start_seconds}-{f.end_seconds}" for f in listed if f.start_seconds or f.end_seconds)
        paths = [file.path for file in listed]
        return Track(
            track.name,
            track.split,
            str(track.folder),
            n_samples,
            next(iter(infos.values())).sample_rate_hz,
            max(info.n_channels for info in infos.values()),
            {stem: tuple(map(piece, files)) for stem, files in track.files.items()},
            content_key(paths) + cut,
            written=writing(paths) + cut,
        )


def _name_problem(track: Listed) -> str:
    """The problem with the names of a track and its stems; empty if there is none."""
    for text in (track.name, *track.files):
        if not is_unicode(text):
            shown = text.encode(errors="surrogateescape").decode(errors="replace")
            return printable(f"{track.folder.parent}: the name {shown!r} is no Unicode. Rename it.")
    if REST in track.files:
        where = f"{track.split}/{track.name}"
        return f"{where}: a stem cannot be called {REST!r}, which means what other stems leave. Rename it."
    return ""


def _piece(file: File, info: AudioInfo) -> tuple[int, int]:
    """(first sample, number of samples) of the used part of a file."""
    start = round(file.start_seconds * info.sample_rate_hz)
    stop = info.n_samples if file.end_seconds is None else round(file.end_seconds * info.sample_rate_hz)
    if not 0 <= start < stop <= info.n_samples:
        raise DataError(
            f"{file.path} lasts {info.seconds:.3f} s; {file.start_seconds:g} to "
            f"{'its end' if file.end_seconds is None else f'{file.end_seconds:g}'} s of it were asked for."
        )
    return start, stop - start


def damage_kind(text: str) -> str:
    """The kind of finding for a message about damage."""
    return "truncated" if "is cut off" in text else "damaged"


def kind_of(error: UserError) -> str:
    """The kind of finding for an error of reading."""
    text = str(error)
    words = (("is cut off", "truncated"), ("is empty", "empty"), ("holds no samples", "empty"), ("holds NaN", "nan"))
    return next((kind for word, kind in words if word in text), "unreadable")


def track_table(root: str | Path, splits: Sequence[str]) -> datasets.Dataset:
    """One row per track of a root, sorted by split and name, as a `datasets` table of `Track` fields.

    Raises `DataError` if nothing is found, if a file cannot be read, or if the files of one track differ in length or
    rate.
    """
    return table_of(scan(DataSpec(root=str(root)), splits).usable())
