"""The heads of a run: list, add, remove, rename, export, verify; and what training on did to the base's heads."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...errors import RecipeError
from ..texts import Place, Split
from .command_line import given, print_json


def list_heads(run: str, *, root: Place | None = None, json: bool = False) -> None:
    """List the heads: how each was trained, and its score."""
    from rich.table import Table

    from ...console import console
    from ...runs.exchange.hub import find_model
    from ...runs.heads import list_heads

    folder = find_model(run, **given(root=root))
    facts = list_heads(folder)
    if json:
        print_json([asdict(head) for head in facts])
        return
    table = Table(title=str(folder.path), title_justify="left")
    for column in ("head", "kind", "parameters", "backbone", "trained in", "steps", "data", "uSDR, dB"):
        table.add_column(column, justify="right" if column in ("parameters", "steps", "uSDR, dB") else "left")
    for head in facts:
        trained = head.trained
        adapter = f" + {head.adapter_parameters:,}" if head.adapter_parameters else ""
        score = head.score.get("usdr")
        table.add_row(
            head.name,
            head.kind,
            f"{head.parameters:,}{adapter}",
            head.backbone_sha256[:12],
            trained.get("run", "–"),
            f"{trained['steps']:,}" if trained else "–",
            f"{trained['data']['name']}, {trained['data']['n_tracks']} tracks" if trained else "–",
            "–" if score is None else f"{score:.2f} ({head.score['split']})",
        )
    console.print(table)


def add(run: str, source: str, *, as_: str | None = None, overwrite: bool = False, root: Place | None = None) -> None:
    """Add a head of the same backbone to a run.

    Args:
        source (FILE|RUN:HEAD|RUN): where the head is
        as_ (NAME): its name in this run (default: unchanged)
        overwrite: replace a head of that name
    """
    from ...console import say
    from ...runs.folder import find_run
    from ...runs.heads import add_head, head_source

    folder = find_run(run, **given(root=root))
    sources = head_source(source, **given(root=root))
    if as_ and len(sources) > 1:
        raise RecipeError(f"--as names one head; {source} holds {len(sources)}. Give {source}:HEAD.")
    for name, path in sources:
        add_head(folder, path, as_ or name, overwrite)
        say(f"{folder.path} has the head {as_ or name} now.")


def remove(run: str, head: str, *, root: Place | None = None) -> None:
    """Delete a head."""
    from ...console import say
    from ...runs.folder import find_run
    from ...runs.heads import remove_head

    folder = find_run(run, **given(root=root))
    remove_head(folder, head)
    say(f"Removed the head {head}. Heads of {folder.path}: {', '.join(folder.head_names()) or 'none'}.")


def rename(run: str, head: str, new: str, *, root: Place | None = None) -> None:
    """Give a head another name."""
    from ...console import say
    from ...runs.folder import find_run
    from ...runs.heads import rename_head

    folder = find_run(run, **given(root=root))
    rename_head(folder, head, new)
    say(f"Renamed. Heads of {folder.path}: {', '.join(folder.head_names())}.")


def export(
    run: str,
    *,
    out: Path,
    heads: Sequence[str] = (),
    half: bool = False,
    push: str | None = None,
    public: bool = False,
    root: Place | None = None,
) -> None:
    """Write backbone and heads into one folder to share.

    Args:
        out (DIR): a new folder
        heads (NAME): these heads only
        half: weights in 16 bits: half the size, slightly rounded
        push (OWNER/NAME): also upload it to the Hugging Face hub
        public: visible to everybody (default: private)
    """
    from ...console import say
    from ...runs.exchange.hub import export, find_model, push_to_hub

    folder = export(find_model(run, **given(root=root)), out, heads, half)
    say(f"Written: {folder.path}, heads {', '.join(folder.head_names())}.")
    if push:
        say(f"Pushed: {push_to_hub(folder.path, push, private=not public)}")


def verify(run: str, *, heads: Sequence[str] = (), root: Place | None = None, json: bool = False) -> int:
    """Check hashes, shapes and numbers.

    Args:
        heads (NAME): these heads only
    """
    from ...console import say
    from ...runs.exchange.hub import find_model
    from ...runs.heads import verify

    found = verify(find_model(run, **given(root=root)), heads)
    if json:
        print_json(found)
    for part, what in found.items() if not json else ():
        say(f"{part}: {what}")
    return 0 if set(found.values()) == {"ok"} else 1


def forgetting(
    run: str,
    *,
    data: Place | None = None,
    split: Split | None = None,
    device: str | None = None,
    root: Place | None = None,
    json: bool = False,
) -> None:
    """The loss of the base's own heads on this run's backbone.

    Args:
        data (ROOT): another data root than the base's
        split: the songs to score (default: test)
    """
    from ...console import say
    from ...evaluation.forgetting import forgetting
    from ...runs.folder import find_run

    found = forgetting(find_run(run, **given(root=root)), data, **given(split=split, device=device))
    if json:
        print_json(found)
    for name, change in found["change"].items():
        say(f"{name}: {change:+.2f} dB uSDR on the {found['split']} split ({found['how']})")


COMMANDS = {
    "list": list_heads,
    "add": add,
    "remove": remove,
    "rename": rename,
    "export": export,
    "verify": verify,
    "forgetting": forgetting,
}
