"""Plain torch: tensors in, tensors out. Nothing here knows Darts, Lightning or pandas."""
