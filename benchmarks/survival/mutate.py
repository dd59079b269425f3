"""Hostile inputs: mutated from valid ones, by bytes or by values, and grown from nothing. All from one seed."""

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

TEXTS = [
    *("", " ", "..", "../../etc/passwd", "/etc/passwd", "/tmp/escaped", "~root/x", "CON", "a\nb", "a\0b", "\x1b[31m"),
    *("é" * 150, "x" * 300, "\ud800", "\u202e", "{head}", "{0.__class__}", "%s%s", "null", "nan", "-inf", "1e400"),
    *("0x10", "1_000", "2001-99-99", "12:30:45", "=cmd|' /C calc'!A0", "<script>", "hf:x/y", "http://127.0.0.1:1/x"),
    *("http://[x", "x" * 10**5),
    *("!!python/object/apply:os.system [touch escaped]", "&a [*a]", "vocals", "drums", "mixture", "None", "true"),
]
NUMBERS = [0, 1, -1, 2, 3, 16, 255, 2**31 - 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e-300]
NUMBERS += [1e300, float("inf"), float("-inf"), float("nan"), True, False]


def text_of(value: Any) -> str:
    """A value as text, whatever it is."""
    try:
        return str(value)
    except (ValueError, RecursionError):
        return "[" * 1000


def grown(chance: random.Random, depth: int = 3) -> Any:
    """A value of plain kinds, grown from nothing."""
    kind = chance.randrange(8 if depth else 5)
    if kind == 0:
        return None
    if kind in (1, 2):
        return chance.choice(NUMBERS)
    if kind in (3, 4):
        return chance.choice(TEXTS)
    if kind == 5:
        return [grown(chance, depth - 1) for _ in range(chance.randrange(5))]
    if kind == 6:
        return {chance.choice(TEXTS): grown(chance, depth - 1) for _ in range(chance.randrange(4))}
    nested: Any = grown(chance, 0)
    for _ in range(chance.choice([5, 60, 60, 1500])):
        nested = [nested] if chance.random() < 0.5 else {"a": nested}
    return nested


def changed(value: Any, chance: random.Random) -> Any:
    """A plain value with one place in it changed: replaced, dropped, doubled, renamed."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key, what = chance.choice(list(value)), chance.randrange(10)
        if what == 0:
            return {k: v for k, v in value.items() if k != key}
        if what == 1:
            return {**value, str(chance.choice(TEXTS)): value[key]}
        if what == 2:
            return {**value, key: value[chance.choice(list(value))]}
        return {**value, key: changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.85:
        place, what = chance.randrange(len(value)), chance.randrange(8)
        if what == 0:
            return value[:place] + value[place + 1 :]
        if what == 1:
            return value * chance.choice([2, 2, 50])
        return [*value[:place], changed(value[place], chance), *value[place + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and chance.random() < 0.3:
        return value + chance.choice([-1, 1, -value, value, 10**6])
    return grown(chance)


def bent(data: bytes, chance: random.Random) -> bytes:
    """Bytes with some of them changed: flipped, cut, doubled, moved, overwritten by striking numbers."""
    result = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        if not result:
            return bytes(chance.randrange(256) for _ in range(chance.randrange(64)))
        place = chance.randrange(min(len(result), chance.choice([64, 512, len(result)])))
        what = chance.randrange(8)
        if what == 0:
            result[place] ^= 1 << chance.randrange(8)
        elif what == 1:
            result[place] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        elif what == 2:
            del result[place:]
        elif what == 3:
            del result[place : place + chance.choice([1, 4, 100])]
        elif what == 4:
            result[place:place] = result[place : place + chance.choice([1, 4, 1000])]
        elif what == 5:
            number = chance.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, len(data), len(data) + 1])
            packed = struct.pack(chance.choice("<>") + "Q", number)[: chance.choice([2, 4, 8])]
            result[place : place + len(packed)] = packed
        elif what == 6:
            result[place:place] = bytes(chance.randrange(256) for _ in range(chance.randrange(32)))
        else:
            other = chance.randrange(len(result))
            result[place : place + 8] = result[other : other + 8]
    return bytes(result)


def as_json(value: Any) -> bytes:
    """JSON, or for what JSON has not, nearly."""
    try:
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        return b"[" * 2000


def as_yaml(value: Any) -> bytes:
    """YAML; JSON is a part of it, and faster to write."""
    return as_json(value)


YAML_TRICKS: list[bytes] = [
    b"a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
    + b"".join(b"%c: &%c [%s]\n" % (97 + i, 97 + i, b", ".join([b"*%c" % (96 + i)] * 9)) for i in range(2, 12)),
    b"a: &a {k0: 1}\n"
    + b"".join(b"%c: &%c {<<: [%s], k%d: 1}\n" % (97 + i, 97 + i, b", ".join([b"*%c" % (96 + i)] * 9), i)
               for i in range(1, 9)),
    b"&a [*a]", b"a: &a {b: *a}", b"{" * 1500, b"[" * 1500, b"- " * 1500, b"? " * 1000, b"a: " + b"9" * 5000,
    b"a: 2001-99-99", b"a: !!python/object/apply:os.system ['touch escaped']", b"a: !!binary '!'", b"a: !!timestamp x",
    b"a: !!int x", b"a: !!float []", b"a: !!set {x}", b"a: !!omap [x]", b"%YAML 9.9\n---\na: 1", b"a: 1\n---\na: 2",
    b"\xff\xfea\x00", b"a: \x00", b"a: 0b" + b"1" * 100_000, b"a: 1e999", b"a: 190:20:30", b"<<: [a]", b"? [a]\n: b",
    b"targets: [vocals]\nextends: [a]", b"extends: 5", b"extends: recipe.yaml", b"extends: ../../etc/passwd",
]  # fmt: skip


def structured(write: Callable[[Any], bytes], tricks: Sequence[bytes] = ()) -> Callable[[Any, random.Random], bytes]:
    """Inputs made of plain values: one place or several changed, the bytes bent, grown from nothing, or a trick."""

    def make(seed: Any, chance: random.Random) -> bytes:
        kind = chance.randrange(20)
        if kind < 12:
            value = seed
            for _ in range(chance.choice([1, 1, 2, 4])):
                value = changed(value, chance)
            return write(value)
        if kind < 16:
            return bent(write(seed), chance)
        if kind < 18 or not tricks:
            return write(grown(chance, 4))
        trick = chance.choice(list(tricks))
        return trick if chance.random() < 0.5 else bent(trick, chance)

    return make


def binary(seed: bytes, chance: random.Random) -> bytes:
    """Inputs made of bytes: bent, or noise behind the first bytes of a valid one."""
    if chance.random() < 0.08:
        start = seed[: chance.choice([0, 4, 12, 44, 100])]
        return start + bytes(chance.randrange(256) for _ in range(chance.randrange(500)))
    return bent(seed, chance)


def safetensors(seed: bytes, chance: random.Random) -> bytes:
    """A safetensors file with its header changed value by value, or bent."""
    if chance.random() < 0.3:
        return bent(seed, chance)
    size = int.from_bytes(seed[:8], "little")
    header = json.loads(seed[8 : 8 + size])
    about = header.get("__metadata__", {})
    for _ in range(chance.choice([1, 1, 2])):
        if about and chance.random() < 0.7:
            key = chance.choice(list(about))
            try:
                inner = json.loads(about[key])
                about[key] = as_json(changed(inner, chance)).decode(errors="replace")
            except (ValueError, TypeError, RecursionError):
                about[key] = str(chance.choice(TEXTS))
        else:
            header = changed(header, chance)
            about = header.get("__metadata__", {}) if isinstance(header, dict) else {}
            about = about if isinstance(about, dict) else {}
    text = as_json(header)
    return len(text).to_bytes(8, "little") + text + seed[8 + size :]


def checkpoint(seed: bytes, chance: random.Random) -> bytes:
    """A file of torch.save: the zip bent, its pickle bent, parts left out, doubled, or compressed bombs."""
    if chance.random() < 0.4:
        return bent(seed, chance)
    made, n, bomb = io.BytesIO(), 0, chance.randrange(2000)
    with zipfile.ZipFile(io.BytesIO(seed)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new:
        for part in old.infolist():
            content, what = old.read(part), chance.random()
            if part.filename.endswith("data.pkl") and what < 0.8:
                content = bent(content, chance) if what < 0.6 else hostile_pickle(chance)
            elif what < 0.03:
                continue
            elif what < 0.06:
                content = content * chance.choice([0, 2])
            elif what < 0.09:
                content = bent(content, chance)
            name = part.filename if chance.random() > 0.01 else f"../../{part.filename}"
            n += 1
            how = zipfile.ZIP_STORED if n != bomb else zipfile.ZIP_DEFLATED
            new.writestr(name, content if how == zipfile.ZIP_STORED else bytes(10**7), how)
    return made.getvalue()


def hostile_pickle(chance: random.Random) -> bytes:
    """A pickle that would run something, or take memory or time without end."""
    return chance.choice(
        [
            b"cos\nsystem\n(S'touch escaped'\ntR.",
            b'cbuiltins\neval\n(S\'open("escaped", "w")\'\ntR.',
            b"cposix\nsystem\n(S'touch escaped'\ntR.",
            b"ctorch\nzeros\n(I1000000000000\ntR.",
            b"ctorch._utils\n_rebuild_tensor_v2\n(I1\nI2\nI3\ntR.",
            b"ccollections\nOrderedDict\n)R(S'state_dict'\n}(S'a'\nI1\nuu.",
            b"(" * 100_000 + b".",
            b"\x80\x02" + b"]q\x00" + b"h\x00" * 100 + b".",
            b"cbuiltins\nbytearray\n(I100000000000\ntR.",
            b"cbuiltins\ngetattr\n(ctorch\nload\nS'__globals__'\ntR.",
            b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b".",
        ]
    )
