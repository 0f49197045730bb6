"""Which of Ray's errors are retried, and the final messages."""

import inspect
import pickle

import pytest
import ray.exceptions as errors
import torch

from stillhouse.search.execution.builder import MissingInput
from stillhouse.search.execution.failures import is_out_of_memory, reason
from stillhouse.search.execution.tasks import StageTimeout, give_up_message, is_retryable
from stillhouse.search.execution.tasks import task_error_line as reason_in_task

LOST = {
    "WorkerCrashedError",
    "NodeDiedError",
    "LocalRayletDiedError",
    "OutOfMemoryError",
    "OutOfDiskError",
    "ObjectStoreFullError",
    "RpcError",
    "RuntimeEnvSetupError",
    "TaskUnschedulableError",
    # Objects whose node went, in all their kinds
    "ObjectLostError",
    "ObjectFetchTimedOutError",
    "ReferenceCountingAssertionError",
    "ObjectFreedError",
    "OwnerDiedError",
    "ObjectReconstructionFailedError",
    # Ray's own failures; those below only come of channels, which are not used
    "RaySystemError",
    "StreamingGeneratorReplayInconsistentError",
    "RayChannelError",
    "RayChannelTimeoutError",
    "RayCgraphCapacityExceeded",
    "RayDirectTransportError",
}
NOT_LOST = {
    "RayError",
    "TaskCancelledError",  # nobody wants it any more
    "UserCodeException",
    "UnserializableException",
    "CrossLanguageError",
    "AuthenticationError",
    "GetTimeoutError",
    "PendingCallsLimitExceeded",
    "ObjectRefStreamEndOfStreamError",
    "OufOfBandObjectRefSerializationException",
    "PlasmaObjectNotAvailable",
    "TaskPlacementGroupRemoved",
    # Of actors; a stage is a task
    "RayActorError",
    "ActorDiedError",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "ActorPlacementGroupRemoved",
    "ActorAlreadyExistsError",
    "ActorHandleNotFoundError",
    "AsyncioActorExit",
}


def kinds():
    members = inspect.getmembers(errors, inspect.isclass)
    found = {name: kind for name, kind in members if issubclass(kind, errors.RayError)}
    found.pop("RayTaskError")  # what it is depends on its cause
    return found


def blank(kind):
    """An error of that kind, whatever its constructor asks for."""
    return kind.__new__(kind)


def test_every_error_of_ray_is_one_or_the_other():
    """A new error of a later Ray must be classified here."""
    assert kinds().keys() <= LOST | NOT_LOST
    assert {
        name for name, kind in kinds().items() if is_retryable(blank(kind))
    } == LOST & kinds().keys()


def test_what_counts_in_a_task_is_the_cause():
    def in_task(cause):
        return errors.RayTaskError("made", "trace", cause)

    assert is_retryable(in_task(errors.NodeDiedError("gone")))
    assert not is_retryable(in_task(ArithmeticError("nine is not prime")))
    assert not is_retryable(in_task(MissingInput("0" * 64, "gone")))
    assert is_retryable(StageTimeout("gave no report for 5 s"))


def test_in_the_end_one_line_says_what_helps():
    said = give_up_message(StageTimeout("gave no report for 5 s"), 4)
    assert said == (
        "gave no report for 5 s, in each of 4 attempts; where a report takes longer, set "
        "run.hang_after"
    )
    said = give_up_message(
        errors.OutOfMemoryError("Task was killed\ndue to the node running low"), 4
    )
    assert said.startswith("its machine ran out of memory in each of 4 attempts, and Ray ended it")
    assert "\n" not in said
    said = give_up_message(errors.NodeDiedError("node a died\nsee the logs"), 4)
    assert said == "lost its worker 4 times: NodeDiedError: node a died"


def test_out_of_memory_is_told_with_what_helps():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    for error in (caught.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")):
        assert is_out_of_memory(error)
        for said in (reason(error), reason_in_task(error)):
            assert said.startswith("out of memory; a smaller batch_size or network, or fewer at")
            assert "\n" not in said
        assert is_out_of_memory(pickle.loads(pickle.dumps(error)))
    assert not is_out_of_memory(RuntimeError("size mismatch"))


def test_an_error_of_several_lines_is_told_in_one_without_terminal_codes():
    error = RuntimeError("\x1b[1mthe graph was freed\x1b[0m\nSpecify retain_graph=True\n...")
    assert reason_in_task(error) == "the graph was freed"
    assert reason_in_task(ValueError("one\ntwo")) == "ValueError: one"
    assert reason_in_task(RuntimeError("")) == "no message"
