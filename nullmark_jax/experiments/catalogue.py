"""All experiments, in the order of the book of results."""

from nullmark_jax.experiments import (
    corruption,
    examination,
    extraction,
    false_positives,
    fine_tuning,
    fragility,
    functionality,
    gradual,
    input_filter,
    neural_cleanse,
    null_hiding,
    pattern_recovery,
    piracy,
    piracy_cost,
    pruning,
    stability,
    transfer,
    trigger_false_positives,
    trigger_piracy,
)
from nullmark_jax.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        functionality,
        false_positives,
        piracy,
        stability,
        piracy_cost,
        gradual,
        corruption,
        fine_tuning,
        pruning,
        fragility,
        neural_cleanse,
        extraction,
        transfer,
        null_hiding,
        input_filter,
        pattern_recovery,
        examination,
        trigger_piracy,
        trigger_false_positives,
    )
}
