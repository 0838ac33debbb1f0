"""The demonstration: the main job, on real tokens, step by step; see scripts/demo."""
