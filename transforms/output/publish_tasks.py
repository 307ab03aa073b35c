"""The tasks of a run of many, published in groups: the disk is asked once a group to write what it has of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from transforms.accounts.accounts import Accounts
from transforms.output import journal, manifest
from transforms.output.folder_change import Change, FolderChange, prepare, sync
from transforms.output.publisher import GateShutError, OccupiedError, Publication, Publisher
from transforms.specs.errors import UnpublishableError
from transforms.specs.own_names import MANIFEST, SUCCESS
from transforms.specs.run import Plan, RunSpec
from transforms.staging import cancelled
from transforms.storage import paths

# Two handles each are held; a call of the disk for 50 tasks is a fiftieth of what one for each would be.
GROUP_TASKS = 50


@dataclasses.dataclass
class _Task:
    """A task that is prepared, or has failed."""

    plan: Plan
    accounts: Accounts
    publication: Publication | None = None


class TaskGroup:
    """Publishes tasks, as far as the gate of each allows, and gives their lines in the run's manifest.

    While tasks of the group are locked no other lock is waited for: two runs of the same tasks would wait for each other.
    """

    def __init__(self, run: RunSpec) -> None:
        self.run = run
        self.tasks: list[_Task] = []

    def add(self, plan: Plan, accounts: Accounts) -> Iterator[dict[str, Any]]:
        """Take a task up; yield the lines of tasks that are published by now."""
        if plan.published is not None:
            yield manifest.task_line(plan, plan.published, accounts)
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
            yield manifest.task_line(plan, {"status": "failed", "reason": str(error)}, accounts)
        except BaseException:
            self._abandon()
            raise
        if len(self.tasks) >= GROUP_TASKS or (self.tasks and paths.is_remote(self.run.folder)):
            yield from self.end()

    def end(self) -> Iterator[dict[str, Any]]:
        """Publish what was taken up; yield the lines."""
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
        """Prepare the manifest of a task that could not begin."""
        assert plan.task is not None
        output = self.run.output_of(plan.task)
        locks = journal.lock([output.folder], wait)
        if locks is None:
            return None
        try:
            report = manifest.unplanned(self.run, plan, manifest.read(paths.join(output.folder, MANIFEST)))
            staging = self.run.staging_of(output, plan.task) or self.run.staging_in(output.folder)
            change = FolderChange(output.folder, staging, written={MANIFEST: manifest.encode(report)}, removed={SUCCESS})
            prepared = prepare(Change(self.run.run_id, self.run.launch, plan.task.number, [change]), locks)
        except BaseException:
            locks.release()
            raise
        return Publication(report, locks, [output.folder], prepared)

    def _end(self, task: _Task) -> dict[str, Any]:
        assert task.publication is not None
        try:
            report = task.publication.end()
        except GateShutError:
            report = task.publication.report
        except (UnpublishableError, OccupiedError) as error:
            report = {"status": "failed", "reason": str(error)}
        finally:
            task.publication.close()
        return manifest.task_line(task.plan, report, task.accounts)

    def _abandon(self) -> None:
        while self.tasks:
            publication = self.tasks.pop().publication
            if publication is not None:
                publication.close()
