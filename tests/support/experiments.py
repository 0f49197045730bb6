"""Small experiments that several tests run or check."""

LABELS = {"cross_entropy": {}}
TAUGHT = {"cross_entropy": {}, "soft_targets": {}}
ONE_EPOCH = {"epochs": 1}
FAST = {"epochs": 1, "batch_size": 32, "lr": 0.05}


def taught_student(
    name="tiny",
    *,
    network="cnn2",
    objective=None,
    training=None,
    limit=60,
    validation=0.2,
    **top,
):
    """The file of an experiment on digits in which ``cnn4`` teaches a student, as plain data.

    ``top`` has further fields of the top level, such as ``search`` and ``run``.
    """
    training = training or ONE_EPOCH
    return {
        "name": name,
        "data": {"source": "digits", "limit": limit, "validation": validation},
        "stages": {
            "teacher": {"network": "cnn4", "objective": LABELS, "training": training},
            "student": {
                "network": network,
                "teachers": ["teacher"],
                "objective": objective or TAUGHT,
                "training": training,
            },
        },
        "goal": {"maximize": "student.val_accuracy"},
        **top,
    }


def tiny_experiment(**top):
    """:func:`taught_student` with a student of few parameters, which trains within a second."""
    return taught_student(network={"cnn2": {"width": 0.25}}, **top)
