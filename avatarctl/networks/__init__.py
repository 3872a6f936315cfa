"""The networks of StableAvatar: their classes, weights, conditions and placement."""
