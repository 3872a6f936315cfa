"""The embedded avatar: a small world of drawn faces and made voices, and the networks trained on it."""
