"""Does each layer refine one prediction? Lenses, their transfer between layers, and what passes for refinement (Belrose et al. 2023)."""

STUDY = "lens"
# What a lens reads: the model's states, and the two nulls (`lens.nulls`)
MODEL, ROTATED, CARRIED = "model", "rotated", "carried"
