"""The meaning of stem names: which stems contain the rest of a song, and which may be part of another stem.

A specific name ("guitar") says what a stem contains. A catch-all ("other", "instrumental") says what it does not
contain.
"""

import re

MUSDB_STEMS = ("vocals", "drums", "bass", "other")
MIXTURE = "mixture"
MIXTURE_NAMES = (MIXTURE, "mix", "mixdown", "full_mix", "fullmix", "master")  # of a file that is one, where no other is
REST = "rest-of-mixture"  # in recipes: the mixture − the other stems; no file can have this name

# Catch-alls that hold everything beside the other stems, and those that hold everything but voices. A name that begins
# with one of the negations holds everything but the source behind it: no_drums, without vocals.
LEFT_OVER = {"other", "others", "rest", "residual", "remaining", "remainder", "misc", "everything_else"}
NO_VOICE = {
    *("accompaniment", "instrumental", "instrumentals", "instruments", "band", "music", "backing", "backing_track"),
    *("novocals", "off_vocal", "off_vocals", "karaoke", "playback", "minus_one", "minus", "inst", "accomp", "bgm"),
}
NEGATIONS = {"no", "not", "non", "minus", "without"}
CATCH_ALL = LEFT_OVER | NO_VOICE

# Words of names that belong to one kind of source.
FAMILIES: dict[str, set[str]] = {
    "vocals": {
        *("vocal", "voice", "vox", "singing", "singer", "choir", "rap", "speech", "acapella", "acappella", "lyrics"),
        *("soprano", "alto", "tenor", "baritone", "chant", "dialog", "dialogue"),
    },
    "drums": {
        *("drum", "drumkit", "kick", "snare", "tom", "hihat", "hat", "cymbal", "ride", "crash", "overhead"),
        *("percussion", "beat", "clap", "perc"),
    },
    "bass": {"bass", "contrabass", "808"},
    "guitar": {"guitar", "gtr"},
    "piano": {"piano", "keys", "keyboard", "rhodes"},
    "strings": {"string", "violin", "viola", "cello"},
    "noise": {"noise", "hum", "hiss", "crackle", "crowd", "applause", "sfx", "effect", "fx", "foley", "ambience"},
}


def slug(name: str) -> str:
    """``Backing Track`` → ``backing_track``."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def words(name: str) -> set[str]:
    """The words of a name without plurals and numbers: ``Electric Guitars 2`` → electric, guitar."""
    found = {word for word in slug(name).split("_") if word}
    found = {word.rstrip("0123456789") or word for word in found} - {str(i) for i in range(100)}
    return {word[:-1] if word.endswith("s") and len(word) > 3 and not word.endswith("ss") else word for word in found}


def families(name: str) -> set[str]:
    """The kinds of source that a name belongs to."""
    return {family for family, members in FAMILIES.items() if words(name) & members}


def lacking(name: str) -> set[str]:
    """The families of sources that a catch-all leaves out by its own name: ``no_drums`` → drums, ``band`` → vocals."""
    if slug(name) in NO_VOICE:
        return {"vocals"}
    negation, _, source = slug(name).partition("_")
    return families(source) if negation in NEGATIONS else set()


def is_catch_all(part: str) -> bool:
    return part == REST or slug(part) in CATCH_ALL or bool(lacking(part))


def related(one: str, other: str) -> bool:
    """Whether one stem may contain the other or a part of it, judged by specific names."""
    return one == other or bool(words(one) & words(other)) or bool(families(one) & families(other))


def leaves_out(catch_all: str, name: str) -> bool:
    """Whether a stem with this catch-all's name contains nothing of the source ``name``, by the meaning of the name."""
    if slug(catch_all) in LEFT_OVER:
        return not is_catch_all(name)
    return bool(families(name) & {*lacking(catch_all), "noise"})


def belongs_to(name: str, catch_all: str) -> bool:
    """Whether a source with a specific name is contained in a stem with this catch-all's name."""
    return not families(name) & {*lacking(catch_all), "noise"}


def is_known(name: str) -> bool:
    """Whether this is the name of a stem or mixture, alone or with a number."""
    plain = re.sub(r"_?\d+$", "", slug(name))
    members = set().union(*FAMILIES.values(), FAMILIES.keys(), CATCH_ALL, MIXTURE_NAMES)
    return plain in members or is_catch_all(plain) or (plain.endswith("s") and plain[:-1] in members)
