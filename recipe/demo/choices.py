"""What can be chosen on the demo's command line, apart from `settings`, which takes seconds to import."""

MODELS = ("tiny", "smollm2")
TRAINER_MODES = ("sync", "colocate_async")
"""Of verl's `trainer.v1.trainer_mode`, those that two cores have room for."""
