"""Arrays and datasets to plotly figures."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    ".style": "figure arm_style NothingToPlot",
    ".paper": "save_figure difference_caption",
    ".connectome": "loss_curves learning_gaps final_losses generation_curves density_map mask_map "
                   "origin_bars sweep_curve training_curves",
    ".attribution": "attribution_effects",
    ".wiring": "wiring_map wiring_strip wiring_generations",
    ".population": "search_progress final_scores expert_scores generations_figure family_tree task_profiles coefficient_map "
        "pareto_view ensemble_curves",
    ".genetics": "heritability_bars parent_offspring kin_bars trait_drift",
    ".breeding": "spent_curves ways_compared",
    ".continual": "task_curves",
    ".development": "suite_scores suite_curves_figure",
    ".reading": "residual_words shaded_text surprisal_curves reader_slopes",
    ".alignment": "layer_scores arm_scores roi_scores brain_map reading_fit reading_arms story_scores",
})
