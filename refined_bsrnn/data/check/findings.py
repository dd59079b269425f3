"""Facts → findings: the problems of the data, each as one message of one kind."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import permutations

from ...errors import alike, first, nearest
from ...recipe import DataSpec, Recipe
from ..layouts.listing import Finding
from ..names import MIXTURE
from ..scan import damage_kind
from ..tracks import Track
from .facts import SUM_DB, TrackFacts
from .fingerprints import SAME_SHARE, SAME_STEM_SHARE, same_audio, words_of

# What is found, in the order of the report. Training stops where a `Finding` says so.
KINDS = {
    "unreadable": "cannot be read",
    "empty": "empty files",
    "truncated": "cut off",
    "damaged": "damaged",
    "nan": "NaN or infinite samples",
    "empty_track": "track folders without audio",
    "two_files": "two files for one stem",
    "metadata": "metadata that cannot be read",
    "missing_file": "files that are named and not there",
    "length": "stems of different length",
    "rate": "stems of different rate",
    "target": "targets without a stem",
    "spelling": "names that may be misspelt",
    "validation": "tracks to train and validate on",
    "duplicate": "the same audio twice",
    "mixture": "mixture is not the sum of the stems",
    "silent": "silent from beginning to end",
    "clipped": "clipped",
    "one_channel": "one channel is silent",
    "mono": "mono in two channels",
    "channels": "stems of different channels",
    "resampled": "another rate than the recipe's",
    "low_pass": "cut off above a frequency",
}
CLIPS_PER_MINUTE = 6.0  # fewer are not reported
# A single stem is in its mixture otherwise than as it is where a gain and a delay take so much more away. Of 448 stems
# in mixtures of the practice corpus, all as they are, they take away 0.13 dB more at most.
IN_IT_DB = 0.25


def findings_of(facts: TrackFacts) -> list[Finding]:
    """The findings from the samples of one track."""
    where = f"{facts.split}/{facts.track}"
    found = [Finding(kind, where, text) for kind, text in facts.problems]
    found += [Finding(damage_kind(text), where, text, stops=False) for text in facts.damage]
    stems = facts.stems
    clipped = {n: s.clips for n, s in stems.items() if s.clips >= max(2, CLIPS_PER_MINUTE * s.seconds / 60)}
    edges = {n: s.highest_hz for n, s in stems.items() if s.highest_hz is not None}
    channels = {n: s.n_channels for n, s in stems.items()}
    counts = [f"{n} {count}" for n, count in channels.items()] if len(set(channels.values())) > 1 else []
    for kind, text, cases in (
        ("silent", "silent from beginning to end", [n for n, s in stems.items() if s.silent]),
        ("clipped", "clipped", [f"{n} in {count} places" for n, count in clipped.items()]),
        ("one_channel", "sounding in one channel only", [n for n, s in stems.items() if s.dead_channel]),
        ("mono", "mono, the same in two channels", [n for n, s in stems.items() if s.mono]),
        ("channels", "files of different channels", counts),
        ("low_pass", "cut off as by lossy coding", [f"{n} above {hz / 1000:.1f} kHz" for n, hz in edges.items()]),
    ):
        if cases:
            found.append(Finding(kind, where, f"{where}: {text}: {', '.join(cases)}.", stops=False))
    return [*found, *_sum_findings(facts, where)]


def _sum_findings(facts: TrackFacts, where: str) -> list[Finding]:
    if facts.residual_db is None or facts.residual_db <= SUM_DB:
        return []
    gain_db, remains = 20 * math.log10(max(abs(facts.gain), 1e-6)), facts.fitted_db or 0.0
    how = f"scaled by {gain_db:+.1f} dB" + (" and turned over" if facts.gain < 0 else "")
    if facts.delay_samples:
        later = "later" if facts.delay_samples > 0 else "earlier"
        how += f", {abs(facts.delay_samples)} samples {later}"
    stems = ", ".join(facts.sum_of)
    if len([name for name in facts.stems if name != MIXTURE]) == 1:
        # A mixture and one stem of it are all that a transfer needs: what remains is the rest. But the stem must be in
        # the mixture as it is, or the rest holds it too.
        if (facts.unfitted_db or 0.0) - remains < IN_IT_DB:
            return []
        text = f"{where}: {stems} is not in its mixture as it is: taking it away leaves more than {stems} {how} does."
    elif remains <= SUM_DB:
        text = f"{where}: its mixture is the sum of {stems}, {how}."
    else:
        text = (
            f"{where}: its mixture is not the sum of {stems}: {facts.residual_db:.1f} dB of it remain ("
            f"{remains:.1f} dB with the stems {how}). A stem may be missing, or the mixture mastered."
        )
    return [Finding("mixture", where, text, stops=False)]


def duplicates(facts: Sequence[TrackFacts], stems: bool = True) -> list[Finding]:
    """Tracks with the same audio, in two splits or twice in one; and, unless switched off, such single stems."""
    found = []
    same_tracks: set[tuple[int, int]] = set()
    names = sorted({name for f in facts for name in f.stems if name != MIXTURE})
    for name in ["", *(names if stems else ())]:
        prints = [f.prints if not name else f.stems[name].prints if name in f.stems else "" for f in facts]
        share = SAME_SHARE if not name else SAME_STEM_SHARE
        for i, j, equal, seconds in same_audio([words_of(text) for text in prints], share):
            if (i, j) in same_tracks:
                continue
            same_tracks |= set() if name else {(i, j)}
            a, b = (f"{f.split}/{f.track}" for f in (facts[i], facts[j]))
            begins = (
                f", {abs(seconds):.1f} s {'earlier' if seconds > 0 else 'later'} in the second"
                if abs(seconds) > 0.2
                else ""
            )
            two = "in two splits" if facts[i].split != facts[j].split else "twice"
            what = f"the same {name}" if name else "the same audio"
            text = f"{a} and {b} hold {what} {two} ({equal:.0%} of their fingerprints{begins})."
            found.append(Finding("duplicate", b, text, stops=False))
    return found


# --- lists of findings ------------------------------------------------------------------------------------------------


def sentences(findings: Iterable[Finding], shown: int) -> list[str]:
    """Every finding that stops training, and of each other kind the first few, the rest counted."""
    lines: list[str] = []
    findings = list(findings)
    for kind in dict.fromkeys([*KINDS, *(f.kind for f in findings)]):
        cases = [f for f in findings if f.kind == kind]
        listed = [f for f in cases if f.stops] + [f for f in cases if not f.stops][:shown]
        lines += [f.text for f in listed]
        if len(cases) > len(listed):
            lines.append(f"... and {len(cases) - len(listed)} more: {KINDS.get(kind, kind)}.")
    return lines


def in_order(findings: Iterable[Finding], facts: Sequence[TrackFacts]) -> list[Finding]:
    """Sorted by kind, as in `KINDS`; findings about an upper frequency limit with the lowest first."""
    order = {kind: i for i, kind in enumerate(KINDS)}
    lowest = {f"{f.split}/{f.track}": min([s.highest_hz or math.inf for s in f.stems.values()] or [0.0]) for f in facts}

    def place(finding: Finding) -> tuple[float, float]:
        hz = lowest.get(finding.where, 0.0) if finding.kind == "low_pass" else 0.0
        return order.get(finding.kind, len(order)), hz

    return sorted(findings, key=place)


# --- names, rates and validation tracks -------------------------------------------------------------------------------


def validation_findings(recipe: Recipe, validation: Sequence[Track]) -> list[Finding]:
    """Validation tracks that no target can be validated on; that there is nothing at all to validate on."""
    lacking = [f"{t.split}/{t.name}" for t in validation if not set(recipe.targets) & set(t.stems)]
    if validation and not lacking:
        return []
    text = "there is no validation track: the weights of the last step are kept, good or bad."
    if lacking:
        text = (
            f"{len(lacking)} of {len(validation)} validation tracks have no target and are left out: {first(lacking)}."
        )
    if lacking and len(lacking) == len(validation):
        text += " None is left: the weights of the last step are kept, good or bad."
    return [Finding("validation", "valid", text, stops=False)]


def name_findings(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec) -> list[Finding]:
    """Stems whose names may be misspelt, and names in ``data.define`` that no track has.

    A name is suspicious if it is close to the name of a target, or to a more common one, that its track lacks, and no
    track has both.
    """
    summed = {stem for name in spec.define for stem in spec.stems_of(name)}
    count = Counter(stem for track in tracks for stem in track.stems if stem in summed or stem not in spec.define)
    together = {pair for track in tracks for pair in permutations(track.stems, 2)}
    wanted = {stem for target in targets for stem in spec.stems_of(target)}
    findings = []
    for name in spec.define:
        for stem in spec.stems_of(name):
            if stem not in count:
                text = f"data.define.{name} names the stem {stem!r}, which no track has.{nearest(stem, count)}"
                findings.append(Finding("spelling", "data.define", text, stops=False))
    for stem in sorted(count.keys() - wanted - summed):
        others = {w for w in {*wanted, *count} if w != stem and (w in wanted or (count[w], w) > (count[stem], stem))}
        meant = alike(stem, {w for w in others if (stem, w) not in together})
        having = [f"{t.split}/{t.name}" for t in tracks if stem in t.files]
        if meant and count[meant]:
            text = (
                f"{len(having)} tracks have {stem!r} and no {meant!r}, which {count[meant]} others have: "
                f"{first(having)}. "
                f"If it is the same, rename it, or set data.define={{{meant}: [{meant}, {stem}]}}."
            )
            findings.append(Finding("spelling", having[0], text, stops=False))
    return findings


def rate_findings(recipe: Recipe, tracks: Sequence[Track]) -> list[Finding]:
    """Tracks at another rate than the network's, which are resampled."""
    findings = []
    for rate in sorted({t.sample_rate_hz for t in tracks} - {recipe.stft.sample_rate_hz}):
        names = [f"{t.split}/{t.name}" for t in tracks if t.sample_rate_hz == rate]
        lost = f" and have nothing above {rate / 2000:.1f} kHz" if rate < recipe.stft.sample_rate_hz else ""
        text = (
            f"{len(names)} tracks are at {rate} Hz, are resampled to the recipe's {recipe.stft.sample_rate_hz} Hz as "
            f"they are read{lost}: {first(names)}."
        )
        findings.append(Finding("resampled", names[0], text, stops=False))
    return findings


def mixed_rates(tracks: Sequence[Track]) -> list[Finding]:
    """Tracks whose rate differs from most tracks', if no recipe sets the rate."""
    rates = Counter(t.sample_rate_hz for t in tracks)
    usual = max(rates, key=lambda rate: (rates[rate], rate), default=0)
    findings = []
    for rate in sorted(rates.keys() - {usual}):
        names = [f"{t.split}/{t.name}" for t in tracks if t.sample_rate_hz == rate]
        text = f"{len(names)} tracks are at {rate} Hz, most at {usual} Hz: {first(names)}. Training resamples them."
        findings.append(Finding("resampled", names[0], text, stops=False))
    return findings
