"""Publication of a run's tasks in groups, so that the disk is synchronized once for a group."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from transforms.accounts.accounts import Accounts
from transforms.output import journal
from transforms.output.folder_change import Change, FolderChange, prepare, sync
from transforms.output.manifest import make_unplanned_manifest, read_manifest, task_line
from transforms.output.publisher import GateShutError, OccupiedError, Publication, Publisher
from transforms.specs.errors import UnpublishableError
from transforms.specs.manifest import Manifest, TaskLine, encode_manifest
from transforms.specs.own_names import MANIFEST, SUCCESS
from transforms.specs.run import Plan, TasksRun
from transforms.staging import cancelled
from transforms.storage import paths

# Each task of a group holds two file handles; one synchronization for 50 tasks costs a fiftieth of one for each.
GROUP_TASKS = 50


@dataclasses.dataclass
class _Task:
    """A task of the group, with its publication once that is prepared."""

    plan: Plan
    accounts: Accounts
    publication: Publication | None = None


class TaskGroup:
    """Publishes those tasks whose accounts allow it, and yields each task's line of the run's manifest.

    While the group holds locks it waits for no other lock: two runs of the same tasks would wait for each other.
    """

    def __init__(self, run: TasksRun) -> None:
        self.run = run
        self.tasks: list[_Task] = []

    def add(self, plan: Plan, accounts: Accounts) -> Iterator[TaskLine]:
        """Add a task to the group; yield the lines of the tasks whose publication has ended."""
        if plan.published is not None:
            yield task_line(plan, plan.published, accounts)
            return
        task = _Task(plan, accounts)
        self.tasks.append(task)
        try:
            cancelled.check(self.run)
            task.publication = self._begin(task, wait=len(self.tasks) == 1)
            if task.publication is None:
                self.tasks.pop()
                yield from self.end()
                self.tasks.append(task)
                task.publication = self._begin(task, wait=True)
        except (UnpublishableError, OccupiedError) as error:
            self.tasks.remove(task)
            yield task_line(plan, Manifest(status="failed", reason=str(error)), accounts)
        except BaseException:
            self._abandon()
            raise
        if len(self.tasks) >= GROUP_TASKS or (self.tasks and paths.is_remote(self.run.folder)):
            yield from self.end()

    def end(self) -> Iterator[TaskLine]:
        """Publish the tasks of the group; yield their lines."""
        try:
            sync([path for task in self.tasks if task.publication is not None for path in task.publication.unsynced()])
            lines = [self._end(task) for task in self.tasks]
            publications = [task.publication for task in self.tasks if task.publication is not None]
            sync(list({parent for publication in publications for parent in publication.parents()}))
        finally:
            self._abandon()
        yield from lines

    def _begin(self, task: _Task, wait: bool) -> Publication | None:
        plan = task.plan
        if plan.model is not None:
            return Publisher(self.run.job_of(plan), task.accounts).begin(wait)
        return self._begin_unplanned(plan, wait)

    def _begin_unplanned(self, plan: Plan, wait: bool) -> Publication | None:
        """Prepare the manifest of a task that could not be planned; None where another run holds its lock and ``wait`` is False."""
        assert plan.task is not None
        output = self.run.output_of(plan.task)
        locks = journal.lock([output.folder], wait)
        if locks is None:
            return None
        try:
            manifest = make_unplanned_manifest(self.run, plan, read_manifest(paths.join(output.folder, MANIFEST)))
            staging = self.run.staging_of(output, plan.task) or self.run.staging_in(output.folder)
            change = FolderChange(output.folder, staging, written={MANIFEST: encode_manifest(manifest)}, removed={SUCCESS})
            prepared = prepare(Change(self.run.run_id, self.run.launch, plan.task.number, [change]), locks)
        except BaseException:
            locks.release()
            raise
        return Publication(manifest, locks, [output.folder], prepared)

    def _end(self, task: _Task) -> TaskLine:
        assert task.publication is not None
        try:
            manifest = task.publication.end()
        except GateShutError:
            manifest = task.publication.manifest
        except (UnpublishableError, OccupiedError) as error:
            manifest = Manifest(status="failed", reason=str(error))
        finally:
            task.publication.close()
        return task_line(task.plan, manifest, task.accounts)

    def _abandon(self) -> None:
        """Release the locks of all tasks in the group, and forget the tasks."""
        while self.tasks:
            publication = self.tasks.pop().publication
            if publication is not None:
                publication.close()
