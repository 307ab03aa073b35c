"""A SavedModel in memory, in a TensorFlow 1 Session, ready to be called with columns.

A Session loads models that ``tf.saved_model.load`` does not: signatures with wrong shapes, inputs that share a tensor,
outputs that are references. The only opposite case known is a Session that leaves variables without values (``_all_initialized``).
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from transforms.convert import from_json
from transforms.model.fingerprint import PARTS
from transforms.model.import_tensorflow import import_keras
from transforms.model.model_files import ModelFiles
from transforms.model.saved_model import parse_proto
from transforms.runtime import metrics
from transforms.specs.errors import ModelError
from transforms.specs.messages import cut, text_lines
from transforms.specs.models import ModelSpec, Structure
from transforms.specs.signature import Batching, Signature

Call = Callable[..., Sequence[np.ndarray]]

# Words of errors which mean that this build can't run the graph at all, whatever the rows are.
LONGEST_ERROR = 500
CANT_RUN = (
    "No OpKernel",
    "Op type not registered",
    "No registered",
    "is neither a type of a primitive operation",
    "Could not find compiler",
)


def cant_run(error: Exception) -> bool:
    """Return whether a TensorFlow error means that the model can't run at all, whatever the rows are."""
    import tensorflow as tf

    if isinstance(error, tf.errors.UnimplementedError | tf.errors.FailedPreconditionError):
        return True
    return any(words in str(error) for words in CANT_RUN)


def telling_line(error: BaseException) -> str:
    """Return the line of a TensorFlow error that a person reads."""
    lines = text_lines(str(error))
    preamble = ("Graph execution error:", "Detected at node", "File ", "root error(s) found.", "(0) ")
    statements = [line for line in lines if not line.startswith(preamble) and not line.endswith(preamble)]
    return cut((statements or lines or [type(error).__name__])[0], LONGEST_ERROR)


class LoadedModel:
    """One signature of one SavedModel, loaded. ``call`` feeds rows and returns one array an output.

    With ``shared``, it uses the Session of another model of the same structure, with its own variables.
    """

    def __init__(self, spec: ModelSpec, shared: SharedSession | None = None) -> None:
        self.spec = spec
        self.signature: Signature = spec.signature
        self.max_rows = 1 << 30  # lowered when memory runs out, for good
        started = time.monotonic()
        self.session: SharedSession | None = shared
        self._entries = [entry for _, entry in spec.structure.variables] if spec.structure else []
        self.files = ModelFiles(spec)
        if shared is not None:
            self.files.fetch()
        else:
            self._run, self.session = _load(spec, self.files)
            self._trial()
        metrics.model_load_milliseconds.update(int(1000 * (time.monotonic() - started)))

    def call(self, columns: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Run the signature once on one array an input, and return one array an output, both in the signature's order.

        Raises:
          ModelError: the variables can't be restored.
        """
        if self.session is None:
            return self._run(*columns)
        return self.session.call(self.files, self._entries, columns)

    def _trial(self) -> None:
        """Call the model once or twice on made-up rows, to distinguish a model that can't run from rows that it rejects.

        Zeros and empty strings are not valid input to every model, so other errors are ignored.

        Raises:
          ModelError: an op has no kernel here, or an output never has one row an instance.
        """
        import tensorflow as tf

        for rows in self._trial_sizes():
            try:
                outputs = self.call(self.made_up(rows))
            except (tf.errors.OpError, ValueError, TypeError) as error:
                if isinstance(error, tf.errors.OpError) and cant_run(error):
                    raise ModelError(f"{self.spec.location} can't run: {telling_line(error)}") from error
                return
            if self.signature.batching is Batching.FREE:
                self._check_rows(outputs, rows)

    def made_up(self, rows: int) -> list[np.ndarray]:
        """Return one array an input with ``rows`` rows of zeros or empty strings.

        Raises:
          ValueError: an array would have more than 2^26 values.
        """
        return [_made_up(spec.shape, spec.dtype, rows) for spec in self.signature.inputs]

    def _trial_sizes(self) -> tuple[int, ...]:
        if self.signature.batching is not Batching.FREE:
            return (1,)
        return (2, 3) if self.spec.batch_size is None else (self.spec.batch_size,)

    def _check_rows(self, outputs: Sequence[np.ndarray], rows: int) -> None:
        for spec, output in zip(self.signature.outputs, outputs, strict=True):
            if spec.is_batched and (output.ndim == 0 or len(output) != rows):
                actual = "one scalar" if output.ndim == 0 else f"{len(output)} rows"
                raise ModelError(
                    f"output {spec.name!r} of signature {self.signature.name} of {self.spec.location} gave {actual} for {rows} "
                    "instances: every output needs one row an instance; export a signature without it"
                )


class SharedSession:
    """A Session for all models of one structure, which holds the variables of one model at a time. Safe for threads."""

    def __init__(self, run: Call, session: Any, structure: Structure, holds: ModelFiles) -> None:
        self._run, self._session = run, session
        self._holds: ModelFiles | None = holds
        self._lock = threading.Lock()
        self._restore = _restoring(session, structure)

    def call(self, model: ModelFiles, entries: Sequence[str], columns: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Run the signature with the variables of ``model``, which are ``entries`` of its checkpoint.

        Raises:
          ModelError: they can't be restored.
        """
        with self._lock:
            if self._holds is not model:
                self._switch(model, entries)
            return self._run(*columns)

    def _switch(self, model: ModelFiles, entries: Sequence[str]) -> None:
        import tensorflow as tf

        self._holds = None  # until all variables are restored, the Session holds no model
        if entries:
            failure: Exception | None = None
            with model.held(("variables",)) as folder:
                try:
                    self._restore(f"{folder}/variables/variables", list(entries))
                except tf.errors.OpError as error:
                    failure = error
            if failure is not None:
                raise ModelError(f"{model.location} can't be loaded: {telling_line(failure)}{_hint(failure)}") from failure
        self._holds = model


def _restoring(session: Any, structure: Structure) -> Callable[[str, list[str]], None]:
    """Add a restore operation for any checkpoint to a Session's graph; return a function that runs it: (path, entries) → None.

    The names of the entries are constants in the graph's own restore operation, and other exports of one program have other names.
    """
    import tensorflow as tf

    graph = session.graph
    tensors = [graph.get_tensor_by_name(f"{node}:0") for node, _ in structure.variables]
    ops = [tensor.op for tensor in tensors]
    dtypes = [op.get_attr("dtype") for op in ops]
    with graph.as_default():
        prefix = tf.compat.v1.placeholder(tf.string, [])
        entries = tf.compat.v1.placeholder(tf.string, [len(tensors)])
        if not tensors:
            return lambda *_: None
        values = tf.raw_ops.RestoreV2(prefix=prefix, tensor_names=entries, shape_and_slices=[""] * len(tensors), dtypes=dtypes)
        assigns = []
        for tensor, op, value in zip(tensors, ops, values, strict=True):
            if op.type == "VarHandleOp":
                checked = tf.ensure_shape(value, tf.TensorShape(op.get_attr("shape")))
                assigns.append(tf.raw_ops.AssignVariableOp(resource=tensor, value=checked))
            else:
                assigns.append(tf.raw_ops.Assign(ref=tensor, value=value).op)
        prepared = _prepared(session, [prefix, entries], [], [tf.group(*assigns)])

    def restore(path: str, names: list[str]) -> None:
        prepared(np.array(path.encode(), object), np.array([name.encode() for name in names], object))

    return restore


def _made_up(shape: Sequence[int | None] | None, dtype: str, rows: int) -> np.ndarray:
    dims = [rows] if shape is None else [rows if axis == 0 and dim is None else dim or 1 for axis, dim in enumerate(shape)]
    if math.prod(dims) > 1 << 26:
        raise ValueError("a made-up row would be too large")
    return np.full(dims, b"" if dtype == "string" else 0, from_json.numpy_dtype(dtype))


def _load(spec: ModelSpec, model: ModelFiles) -> tuple[Call, SharedSession | None]:
    """Load the signature in a Session, or as a TensorFlow 2 function if the Session leaves variables without values.

    Returns a function that calls it, and the Session to share if the model's structure is known.

    Raises:
      ModelError: both ways fail.
    """
    import tensorflow as tf

    expected = (tf.errors.OpError, OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError)
    failure: Exception | None = None
    for load in (_load_session, _load_function):
        with model.held(PARTS) as folder:
            try:
                loaded = load(spec, model, folder)
                if loaded is not None:
                    return loaded
            except expected as error:
                failure = failure or error
    assert failure is not None
    raise ModelError(f"{spec.location} can't be loaded: {telling_line(failure)}{_hint(failure)}") from failure


def _load_session(spec: ModelSpec, model: ModelFiles, folder: str) -> tuple[Call, SharedSession | None] | None:
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(
        allow_soft_placement=True,  # models trained on a GPU pin nodes to it
        intra_op_parallelism_threads=spec.threads,
        inter_op_parallelism_threads=spec.threads,
    )
    graph = tf.Graph()
    with graph.as_default():
        session = tf.compat.v1.Session(graph=graph, config=config)
        _fill(session, spec, model, folder)
        inputs = [graph.get_tensor_by_name(tensor.tensor) for tensor in spec.signature.inputs]
        outputs = [graph.get_tensor_by_name(tensor.tensor) for tensor in spec.signature.outputs]
        if not _all_initialized(session, outputs):
            session.close()
            return None
    call = _callable(session, inputs, outputs)
    return call, SharedSession(call, session, spec.structure, model) if spec.structure else None


def _fill(session: Any, spec: ModelSpec, model: ModelFiles, folder: str) -> None:
    """Load the graph into ``session`` as ``tf.compat.v1.saved_model.load`` does, but from bytes whose fingerprint was compared."""
    from tensorflow.python.saved_model import loader_impl, path_helpers

    loader = loader_impl.SavedModelLoader.__new__(loader_impl.SavedModelLoader)
    loader._export_dir, loader._variables_path = folder, path_helpers.get_variables_path(folder)
    loader._saved_model = parse_proto(*model.read_graph(folder))
    tags = list(spec.signature.tags)
    saver, _ = loader.load_graph(session.graph, tags)
    loader.restore_variables(session, saver)
    loader.run_init_ops(session, tags)


def _all_initialized(session: Any, outputs: Sequence[Any]) -> bool:
    """Return whether all variables that the outputs are computed from have values.

    Keras 3 models written by ``tf.saved_model.save`` have a restore op that fills copies of the variables, not those
    that the signature reads; only TensorFlow 2's own loader, which restores objects, fills them.
    """
    import tensorflow as tf

    seen: set[str] = set()
    handles, waiting = [], [output.op for output in outputs]
    while waiting:
        op = waiting.pop()
        if op.name in seen:
            continue
        seen.add(op.name)
        if op.type == "VarHandleOp":
            handles.append(op.outputs[0])
        waiting += [tensor.op for tensor in op.inputs]
    return all(session.run([tf.raw_ops.VarIsInitializedOp(resource=handle) for handle in handles]))


def _load_function(spec: ModelSpec, model: ModelFiles, folder: str) -> tuple[Call, None]:
    import tensorflow as tf

    import_keras()
    loaded = tf.saved_model.load(model.stage(folder), tags=list(spec.signature.tags))
    function = loaded.signatures[spec.signature.name]
    dtypes = {name: tensor.dtype for name, tensor in function.structured_input_signature[1].items()}

    def call(*columns: np.ndarray) -> list[np.ndarray]:
        named = zip(spec.signature.inputs, columns, strict=True)
        outputs = function(**{tensor.name: tf.constant(column, dtypes[tensor.name]) for tensor, column in named})
        return [outputs[tensor.name].numpy() for tensor in spec.signature.outputs]

    call.loaded = loaded  # type: ignore[attr-defined]  # keeps the variables alive
    return call, None


def _callable(session: Any, inputs: list[Any], outputs: list[Any]) -> Call:
    if len({tensor.name for tensor in inputs}) == len(inputs):
        return _prepared(session, inputs, outputs)
    firsts = [next(i for i, other in enumerate(inputs) if other.name == tensor.name) for tensor in inputs]
    call = _prepared(session, [inputs[i] for i in sorted(set(firsts))], outputs)

    def shared(*columns: np.ndarray) -> Sequence[np.ndarray]:
        """Call the signature; inputs that are one tensor must have equal values, since only one can be fed."""
        for first, column in zip(firsts, columns, strict=True):
            if not np.array_equal(columns[first], column):
                raise ValueError("two inputs of the signature are one tensor of the graph, and the row gives them different values")
        return call(*(columns[i] for i in sorted(set(firsts))))

    return shared


def _prepared(session: Any, feeds: Sequence[Any], fetches: Sequence[Any], targets: Sequence[Any] = ()) -> Call:
    """Return a function that runs a part of a graph. ``make_callable`` checks feeds at each call: two thirds of a small call's time."""
    from tensorflow.core.protobuf import config_pb2

    options = config_pb2.CallableOptions(
        feed=[tensor.name for tensor in feeds], fetch=[tensor.name for tensor in fetches], target=[op.name for op in targets]
    )
    callables = [session._make_callable_from_options(options)]

    def call(*columns: np.ndarray) -> Sequence[np.ndarray]:
        outputs: Sequence[np.ndarray] = callables[0](*columns)
        return outputs

    weakref.finalize(call, callables.clear)  # also at exit: freeing it later needs TensorFlow, which is gone by then
    return call


def _hint(error: Exception) -> str:
    import tensorflow as tf

    text = str(error)
    if "Op type not registered" in text or "No Op registered" in text or "is not in the registry" in text:
        return ": the model needs a custom op that is not installed here"
    # A NotFoundError may be of anything that a graph names; of a missing file it has the path, of a missing entry the word.
    if isinstance(error, (tf.errors.DataLossError, tf.errors.OutOfRangeError)) or "checkpoint" in text or "variables/variables" in text:
        return ": its variables are missing or cut off; copy the whole folder again"
    return ""
