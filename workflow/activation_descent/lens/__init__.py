"""Does each layer refine one prediction? Lenses, their transfer between layers, and what passes for refinement (Belrose et al. 2023)."""

STUDY = "lens"
# Models trained here, letter by letter (`lens.bodies`): the first is asked, the others must come out as they were made
BODIES = ("untied", "tied_loops", "tied", "random_body")
BODY_CONTROLS = BODIES[1:]
# What a lens reads: the model's states, and the two nulls (`lens.nulls`)
MODEL, ROTATED, CARRIED = "model", "rotated", "carried"
