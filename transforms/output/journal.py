"""The journal of a change that is made file by file: the files to place and remove, so that the next run can finish the change.

It is written to each folder of the change before the first file is touched, and removed when ``_SUCCESS`` is back. One function,
``carry_out``, makes the change and finishes it after a kill.
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
from transforms.output.placing import LostShardError, Part, Placing, lies_in_staging, lost, placing
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
    """A journal that can't be carried out; the message says what to do."""


class Journal(msgspec.Struct):
    """A change of one folder, or of two: the first gets the manifest, the second only failed rows."""

    run_id: str
    launch: str
    task: int
    parts: list[Part]
    version: int = 1


def read(folder: str) -> Journal | None:
    """Read the journal that a run left in ``folder``; return None where there is none.

    Raises:
      JournalError: the journal can't be read, or names files outside of its folders.
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
    invalid = [text for text in (journal.run_id, journal.launch) if not RUN_ID.fullmatch(text)]
    if invalid:
        raise JournalError(f"{path} is of a run {invalid[0]!r}, which is no run id; it is not followed: delete it and run again")
    for part in journal.parts:
        names = [*(placed.name for placed in part.placed), *part.removed]
        outside = [name for name in names if leaves_folder(name)]
        if outside:
            raise JournalError(f"{path} names {outside[0]}, outside of its folder; it is not followed: delete it and run again")
    return journal


def _read(path: str) -> bytes | None:
    if paths.is_remote(path):
        seen = gcs.read_seen(path)
        return seen[0] if seen is not None else None
    try:
        return files.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(journal: Journal) -> None:
    """Write the journal to each of its folders, to the first one last: a folder without it has not been touched."""
    content = msgspec.json.encode(journal)
    for part in reversed(journal.parts):
        path = paths.join(part.folder, JOURNAL)
        if paths.is_remote(path):
            try:
                gcs.write_over(path, content, 0)
            except gcs.ChangedError:  # also where the answer to an earlier try was lost
                if _read(path) != content:
                    raise
            continue
        new = f"{path}.new"  # one name for all attempts: under the lock nobody else writes it, and the next one replaces it
        with files.create(new) as stream:
            stream.write(content)
        files.sync([new])
        os.replace(new, path)
        files.sync([os.path.dirname(path), part.folder])


def remove(folder: str, journal: Journal | None) -> None:
    """Delete the journal in a folder, even a half written one; in a bucket only if it is ``journal``."""
    path = paths.join(folder, JOURNAL)
    if paths.is_remote(path):
        seen = gcs.read_seen(path) if journal is not None else None
        if seen is not None and seen[0] == msgspec.json.encode(journal):
            gcs.delete_seen([(path, seen[1])])
    elif os.path.isdir(os.path.dirname(path)):
        files.delete([path, f"{path}.new"])
        files.delete_empty(os.path.dirname(path), folder)


def remove_all(journal: Journal) -> None:
    """Delete the journal from its folders."""
    for part in journal.parts:
        remove(part.folder, journal)


# --- the change itself -----------------------------------------------------------------------------------------------------


def carry_out(journal: Journal, check: Callable[[], None], is_recovery: bool = False) -> None:
    """Make the change of ``journal``, or what is left of it: after a stop at any point the same call finishes it.

    ``_SUCCESS`` is removed first, and only when every file to place is known to exist; the manifest and ``_SUCCESS`` are placed last,
    when the folders agree with the manifest. ``check`` raises where the lock may be lost.

    Raises:
      LostShardError: a file is neither staged nor in place; nothing is changed.
      MismatchError: the folders differ from the manifest; there is no ``_SUCCESS``.
    """
    works = [placing(part, is_recovery) for part in journal.parts]
    for work in works:
        work.look()
    main = works[0]
    missing = next((placed for work in works for placed in work.lost), None)
    if missing is not None:
        raise lost(missing.path, main.part.folder)
    if main.has_marker() and not any([name for name in work.due if name != SUCCESS] or work.stale for work in works):
        return  # the change is complete, and only the journal is left
    marker = next((placed for placed in main.part.placed if placed.name == SUCCESS), None)
    if marker is not None and SUCCESS not in main.due:  # the one in place is the previous output's, which goes first
        raise lost(marker.path, main.part.folder)
    sync_staged(works)
    check()
    main.remove([SUCCESS] if main.has_marker() else [])
    main.sync()
    for work in works:
        check()
        work.place([name for name in work.due if work is not main or name not in LAST])
        work.remove([name for name in work.stale if name != SUCCESS])
        work.sync()
    place_manifest(journal, main, check)


def sync_staged(works: Sequence[Placing]) -> None:
    """Synchronize the staged files to the disk, so that they outlive the machine before their names change."""
    files.sync([placed.path for work in works if not paths.is_remote(work.part.folder) for placed in work.due.values()])


def place_manifest(journal: Journal, main: Placing, check: Callable[[], None]) -> None:
    """Compare the folders with the manifest, place it, then place ``_SUCCESS``."""
    by_name = {placed.name: placed for placed in main.part.placed}
    if MANIFEST in by_name:
        placed = by_name[MANIFEST]
        path = placed.path if MANIFEST in main.due else paths.join(main.part.folder, MANIFEST)
        content = _read(path)
        if content is None:
            raise lost(path, main.part.folder)
        errors = journal.parts[1].folder if len(journal.parts) > 1 else None
        verify.check(verify.decode(content), main.part.folder, errors)
    check()
    main.place([MANIFEST])
    main.sync()
    check()
    main.place([SUCCESS])
    main.sync()


# --- after a kill ----------------------------------------------------------------------------------------------------------


def pending(folder: str) -> str | None:
    """Return the sentence that a run was cut off while it published to ``folder``, or None.

    Raises:
      JournalError: its journal can't be read.
    """
    journal = read(folder)
    if journal is None:
        return None
    return (
        f"run {journal.run_id} was cut off while it published to {journal.parts[0].folder}: the next run there finishes that first "
        f"(its journal is {paths.join(folder, JOURNAL)})"
    )


@dataclasses.dataclass
class Locks:
    """Locks that this process holds, by the place of their folder (``files.place``)."""

    held: dict[str, FolderLock]

    def check(self) -> None:
        """Check that this process still holds the locks.

        Raises:
          LostLockError: one may be lost.
        """
        for lock in self.held.values():
            lock.check()

    def follow(self, folder: str, new: str) -> None:
        """Lock the folder ``new`` too, which will be exchanged for ``folder``."""
        self.held[files.place(folder)].follow(new)

    def release(self) -> None:
        """Release all locks."""
        while self.held:
            self.held.popitem()[1].release()


def lock(folders: Sequence[str], wait: bool = True) -> Locks | None:
    """Lock output folders and finish the changes that killed runs began there; None where one is locked and ``wait`` is False.

    Raises:
      JournalError: a journal can't be carried out.
    """
    by_place = {files.place(folder): folder for folder in folders}
    while True:
        for folder in folders:
            by_place |= _journal_folders(folder)
        locks = _acquire(by_place, wait)
        if locks is None:
            return None
        try:
            if all(_journal_folders(folder).keys() <= by_place.keys() for folder in folders):
                for folder in folders:
                    finish(folder, locks)
                return locks
        except BaseException:
            locks.release()
            raise
        locks.release()


def _journal_folders(folder: str) -> dict[str, str]:
    """Return the folders that the journal in ``folder`` changes, by their place; none without a journal."""
    journal = read(folder)
    return {files.place(part.folder): part.folder for part in journal.parts} if journal is not None else {}


def _acquire(by_place: dict[str, str], wait: bool) -> Locks | None:
    """Lock folders in the order of their places, so that no two runs wait for each other."""
    locks = Locks({})
    try:
        for place in sorted(by_place):
            folder_lock = acquire(by_place[place], wait)
            if folder_lock is None:
                locks.release()
                return None
            locks.held[place] = folder_lock
    except BaseException:
        locks.release()
        raise
    return locks


@contextlib.contextmanager
def alone(*folders: str) -> Iterator[Locks]:
    """Hold the locks of ``folders`` in a ``with`` block, waiting for them as ``lock`` does."""
    locks = lock(folders)
    assert locks is not None
    try:
        yield locks
    finally:
        locks.release()


def finish(folder: str, locks: Locks) -> None:
    """Finish the change of the journal in ``folder``, or undo it where it can't be finished; ``locks`` hold its folders."""
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
    """Return whether each of the journal's folders holds it; else the change was not begun, or is complete.

    Raises:
      JournalError: ``folder`` is none of the journal's folders, or it names a file outside of staging.
    """
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
    """Remove the files that an unfinished change placed, unless the output before it is complete; return a sentence on what is left."""
    works = [placing(part, is_recovery=True) for part in journal.parts]
    for work in works:
        work.look()
    main = works[0]
    placed_names = [[placed.name for placed in work.part.placed if placed.name != SUCCESS and work.is_right(placed)] for work in works]
    if main.has_marker():
        return "The output before it is as it was"
    if verify.is_complete(main.part.folder):  # only _SUCCESS was removed
        files.write_bytes(paths.join(main.part.folder, SUCCESS), b"")
        return "The output before it is as it was"
    for work, names in zip(works, placed_names, strict=True):
        work.remove([*names, *work.stale])
        work.sync()
    return "What it had placed is removed: there is no complete output until the next run has published"
