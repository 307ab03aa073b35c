"""The journal of a change that is made file by file: what is being placed and removed, so that whoever comes next can finish it.

It lies in each folder of the change before the first file is touched, and goes when ``_SUCCESS`` has come back. Making the change
and finishing it after a kill are one function, ``carry_out``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Sequence

import msgspec

from transforms.output import verify
from transforms.output.locks import FolderLock, acquire
from transforms.output.placing import LostShardError, Part, Placing, lies_in_staging, lost, placing, sync_files
from transforms.output.published_names import leaves_folder
from transforms.specs.errors import UnpublishableError
from transforms.specs.job import RUN_ID, STAGING
from transforms.specs.own_names import MANIFEST, STATE, SUCCESS
from transforms.staging import removal
from transforms.storage import files, gcs, paths

LOG = logging.getLogger("nightshift")
JOURNAL = f"{STATE}/journal"
LAST = (MANIFEST, SUCCESS)


class JournalError(UnpublishableError):
    """A journal that can't be followed; the message says what to do."""


class Journal(msgspec.Struct):
    """A change of one folder, or of a folder and that of its failed rows; the first is the one that gets the manifest."""

    run_id: str
    launch: str
    task: int
    parts: list[Part]
    version: int = 1


def read(folder: str) -> Journal | None:
    """Return the journal that a run left in ``folder``, or None.

    Raises:
      JournalError: it can't be read, or names files outside of its folders.
    """
    path = paths.join(folder, JOURNAL)
    content = _read(path)
    if content is None:
        return None
    advice = f"finish it with the version of nightshift that wrote it, or delete {path} and run again"
    try:
        journal = msgspec.json.decode(content, type=Journal)
    except msgspec.DecodeError as error:
        raise JournalError(f"{path} is no journal that this version knows ({error}); {advice}") from None
    odd = [text for text in (journal.run_id, journal.launch) if not RUN_ID.fullmatch(text)]
    if odd:
        raise JournalError(f"{path} is of a run {odd[0]!r}, which no run is called; it is not followed: delete it and run again")
    for part in journal.parts:
        names = [*(placed.name for placed in part.placed), *part.removed]
        outside = [name for name in names if leaves_folder(name)]
        if outside:
            raise JournalError(f"{path} names {outside[0]}, outside of its folder; it is not followed: delete it and run again")
    return journal


def _read(path: str) -> bytes | None:
    if paths.is_remote(path):
        found = gcs.read_seen(path)
        return found[0] if found is not None else None
    try:
        return files.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(journal: Journal) -> None:
    """Put the journal into each of its folders, the first one's last: one that lacks it has not been touched."""
    content = msgspec.json.encode(journal)
    for part in reversed(journal.parts):
        path = paths.join(part.folder, JOURNAL)
        if paths.is_remote(path):
            try:
                gcs.write_over(path, content, 0)
            except gcs.ChangedError:  # or the answer to a first try was lost
                if _read(path) != content:
                    raise
            continue
        new = f"{path}.new"  # one name for all: under the lock nobody else writes it, and the next one replaces it
        with files.create(new) as stream:
            stream.write(content)
        sync_files([new])
        os.replace(new, path)
        sync_files([os.path.dirname(path), part.folder])


def remove(folder: str, journal: Journal | None) -> None:
    """Take ``journal`` out of a folder, and a half written one too; of a bucket only where it is that very journal."""
    path = paths.join(folder, JOURNAL)
    if paths.is_remote(path):
        found = gcs.read_seen(path) if journal is not None else None
        if found is not None and found[0] == msgspec.json.encode(journal):
            gcs.delete_seen([(path, found[1])])
    elif os.path.isdir(os.path.dirname(path)):
        files.delete([path, f"{path}.new"])
        files.delete_empty(os.path.dirname(path), folder)


def remove_all(journal: Journal) -> None:
    """Take the journal out of its folders."""
    for part in journal.parts:
        remove(part.folder, journal)


# --- the change itself -----------------------------------------------------------------------------------------------------


def carry_out(journal: Journal, check: Callable[[], None], is_recovery: bool = False) -> None:
    """Make the change of ``journal``, as far as it is not made: after any break the same call ends it.

    ``_SUCCESS`` goes first, and only when all that is needed is there; the manifest and ``_SUCCESS`` come last, when the folders agree
    with the manifest. ``check`` raises where the lock may be lost.

    Raises:
      LostShardError: a file is neither staged nor in place; nothing is changed.
      MismatchError: the folders do not agree with the manifest; there is no ``_SUCCESS``.
    """
    works = [placing(part, is_recovery) for part in journal.parts]
    for work in works:
        work.look()
    main = works[0]
    gone = next((placed for work in works for placed in work.lost), None)
    if gone is not None:
        raise lost(gone.path, main.part.folder)
    if main.has_marker() and not any([name for name in work.due if name != SUCCESS] or work.stale for work in works):
        return  # all was made, but for the journal's end
    sync_staged(works)
    check()
    main.remove([SUCCESS] if main.has_marker() else [])
    main.sync()
    for work in works:
        check()
        work.place([name for name in work.due if work is not main or name not in LAST])
        work.remove([name for name in work.stale if name != SUCCESS])
        work.sync()
    _end(journal, main, check)


def sync_staged(works: Sequence[Placing]) -> None:
    """Make sure that the staged files outlive the machine before their names change."""
    sync_files([placed.path for work in works if not paths.is_remote(work.part.folder) for placed in work.due.values()])


def _end(journal: Journal, main: Placing, check: Callable[[], None]) -> None:
    """Compare the folders with the manifest, and place it, then ``_SUCCESS``."""
    by_name = {placed.name: placed for placed in main.part.placed}
    if MANIFEST in by_name:
        placed = by_name[MANIFEST]
        path = placed.path if MANIFEST in main.due else paths.join(main.part.folder, MANIFEST)
        content = _read(path)
        if content is None:
            raise lost(path, main.part.folder)
        report = verify.decode(content)
        errors = journal.parts[1].folder if len(journal.parts) > 1 else None
        verify.check(report, main.part.folder, errors)
    check()
    main.place([MANIFEST])
    main.sync()
    check()
    main.place([SUCCESS])
    main.sync()


# --- after a kill ----------------------------------------------------------------------------------------------------------


def pending(folder: str) -> str | None:
    """Return what a run that was cut off while it published to ``folder`` left to be done, as a sentence, or None."""
    journal = read(folder)
    if journal is None:
        return None
    return (
        f"run {journal.run_id} was cut off while it published to {journal.parts[0].folder}: the next run there finishes that first "
        f"(its journal is {paths.join(folder, JOURNAL)})"
    )


@dataclasses.dataclass
class Locks:
    """The locks of some folders, held by this process."""

    held: dict[str, FolderLock]

    def check(self) -> None:
        """Raise LostLockError where one may be lost."""
        for lock in self.held.values():
            lock.check()

    def follow(self, folder: str, new: str) -> None:
        """Lock the folder ``new``, which is going to be ``folder``, too."""
        self.held[files.place(folder)].follow(new)

    def release(self) -> None:
        while self.held:
            self.held.popitem()[1].release()


def lock(folders: Sequence[str], wait: bool = True) -> Locks | None:
    """Lock output folders, having finished what runs that were cut off had begun there; None where one is taken and ``wait`` is False.

    Raises:
      JournalError: a journal can't be followed.
    """
    wanted = {files.place(folder): folder for folder in folders}
    while True:
        for folder in folders:
            wanted |= _also(folder)
        locks = _acquire(wanted, wait)
        if locks is None:
            return None
        try:
            if all(_also(folder).keys() <= wanted.keys() for folder in folders):
                for folder in folders:
                    finish(folder, locks)
                return locks
        except BaseException:
            locks.release()
            raise
        locks.release()


def _also(folder: str) -> dict[str, str]:
    """Return the folders of the journal in ``folder``, by place."""
    journal = read(folder)
    return {files.place(part.folder): part.folder for part in journal.parts} if journal is not None else {}


def _acquire(wanted: dict[str, str], wait: bool) -> Locks | None:
    """Lock folders in one order for all, so that no two runs wait for each other."""
    locks = Locks({})
    try:
        for place in sorted(wanted):
            held = acquire(wanted[place], wait)
            if held is None:
                locks.release()
                return None
            locks.held[place] = held
    except BaseException:
        locks.release()
        raise
    return locks


@contextlib.contextmanager
def alone(*folders: str) -> Iterator[Locks]:
    """Hold the locks of ``folders``, as ``lock`` takes them."""
    locks = lock(folders)
    assert locks is not None
    try:
        yield locks
    finally:
        locks.release()


def finish(folder: str, locks: Locks) -> None:
    """Finish what the journal in ``folder`` says, or undo it where that can't be finished; the locks of its folders are held."""
    journal = read(folder)
    if journal is None or not _is_believed(journal, folder):
        remove(folder, journal)
        return
    main = journal.parts[0].folder
    try:
        carry_out(journal, locks.check, is_recovery=True)
        LOG.info("run %s, which was cut off while it published to %s, is finished there", journal.run_id, main)
    except (LostShardError, verify.MismatchError) as error:
        LOG.warning(
            "run %s was cut off while it published to %s, and can't be finished: %s. %s", journal.run_id, main, error, _undo(journal)
        )
    remove_all(journal)
    for part in journal.parts:
        staging = paths.join(part.folder, STAGING, journal.run_id, journal.launch)
        removal.remove(staging)
        files.delete_empty(staging, part.folder)


def _is_believed(journal: Journal, folder: str) -> bool:
    """Return whether each of the journal's folders, ``folder`` among them, has it; else nothing of it was begun, or all is done."""
    if files.place(folder) not in {files.place(part.folder) for part in journal.parts}:
        raise JournalError(
            f"{paths.join(folder, JOURNAL)} is of a run that published to {journal.parts[0].folder} and was cut off; if that folder was "
            "moved here, delete the file and the results, and run again"
        )
    for part in journal.parts:
        outside = [placed.path for placed in part.placed if not lies_in_staging(placed.path, part.folder)]
        if outside:
            raise JournalError(
                f"{paths.join(folder, JOURNAL)} names {outside[0]}, which is no staged file: delete the journal and run again"
            )
    return all(read(part.folder) == journal for part in journal.parts)


def _undo(journal: Journal) -> str:
    """Take away what of a change that can't be finished was made, but for a complete output that it left alone; say what is there."""
    works = [placing(part, is_recovery=True) for part in journal.parts]
    for work in works:
        work.look()
    main = works[0]
    made = [[one.name for one in work.part.placed if one.name != SUCCESS and work.is_right(one)] for work in works]
    if main.has_marker():
        return "The output before it is as it was"
    if verify.is_complete(main.part.folder):  # only _SUCCESS was taken away
        files.write_bytes(paths.join(main.part.folder, SUCCESS), b"")
        return "The output before it is as it was"
    for work, names in zip(works, made, strict=True):
        work.remove([*names, *work.stale])
        work.sync()
    return "What it had placed is removed: there is no complete output until the next run has published"
