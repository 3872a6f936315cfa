"""Takes released weights and conditions, gives the networks of StableAvatar."""
