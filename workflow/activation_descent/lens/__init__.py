"""Does each layer refine one prediction? Lenses, their transfer between layers, and what passes for refinement (Belrose et al. 2023)."""
