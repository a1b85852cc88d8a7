"""In-context learning in language models against fine-tuning on the same demonstrations (Dai et al. 2022 and its critics)."""

STUDY = "finetuning"
