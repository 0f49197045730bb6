"""The machinery that methods share: data, objectives, schedules, training, evaluation."""
